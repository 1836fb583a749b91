"""Keys of the answer form (`conf/answer`)."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from vqr1.config.targets import arguments_apart, build_target
from vqr1.config.types import STRICT_KEYS
from vqr1.config.validation import several_problems
from vqr1.errors import ConfigError
from vqr1.iqa.answers import AnswerForm


@dataclass(config=STRICT_KEYS, kw_only=True)
class AnswerConfig:
    """How a response has to be written, and how it is read (`conf/answer`)."""

    target: Annotated[str, Field(alias="_target_")]
    """Class of the form, a subclass of `vqr1.iqa.answers.AnswerForm`."""
    arguments: dict[str, Any]
    """The class's arguments, which it checks itself."""

    @cached_property
    def form(self) -> AnswerForm:
        """The form.

        Raises:
            ConfigError: the class does not exist or is no answer form, or does not take an argument
                or its value.
        """
        form = build_target("answer", self.target, self.arguments)
        if not isinstance(form, AnswerForm):
            raise ConfigError(
                [
                    f"answer: {self.target}: no answer form; it must be a subclass of "
                    "vqr1.iqa.answers.AnswerForm"
                ]
            )
        return form


def _built(config: AnswerConfig) -> AnswerConfig:
    try:
        _ = config.form
    except ConfigError as error:
        raise several_problems(error.problems) from error
    return config


AnyAnswer = Annotated[AnswerConfig, arguments_apart(), AfterValidator(_built)]
"""An answer form that can be built."""
