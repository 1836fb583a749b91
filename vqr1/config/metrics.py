"""Keys of metrics of the user's own (docs/extending.md), beside `vqr1.evaluation.metrics`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from functools import partial
from typing import Annotated, Any, get_type_hints

from pydantic import Field
from pydantic.dataclasses import dataclass

from vqr1.config.targets import arguments_apart
from vqr1.config.types import STRICT_KEYS
from vqr1.errors import ConfigError

HEADLINE = "srcc"
"""Name of the metric that an evaluation, a search and a comparison stand for."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class MetricConfig:
    """One metric."""

    target: Annotated[str, Field(alias="_target_")]
    """Function of `vqr1.evaluation.metrics.MetricInputs` that gives a number, NaN where there is
    none."""
    label: str | None = None
    """What tables call it; null: its name."""
    higher_is_better: bool = True
    """Direction: which of two checkpoints, trials or settings is the better one."""
    averageable: bool = True
    """Whether a mean over data sets means something: not so in units of the sets' MOS."""
    interval: bool = True
    """Give it a bootstrap interval: the function is called once for each draw."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the function, by keyword."""

    def function(self, key: str) -> Callable[[Any], float]:
        """The function, its further arguments bound.

        Args:
            key: dotted key of the metric, for messages.

        Raises:
            ConfigError: there is no such function, or an argument is null where it takes no null.
        """
        # Hydra takes long to import, and its grammar is not needed here otherwise.
        from hydra.utils import get_method

        try:
            found = get_method(self.target)
        except (ImportError, ValueError) as error:
            printed = " ".join(str(error).split())
            problem = f"{key}._target_={self.target}: no such function ({printed})"
            raise ConfigError([problem]) from error
        missing = [
            f"{key}.{name}=null: {self.target} takes a {hint.__name__} there, and no value stands "
            "for what is not stated; give it"
            for name, hint in _plain_hints(found).items()
            if name in self.arguments and self.arguments[name] is None
        ]
        if missing:
            raise ConfigError(missing)
        return partial(found, **self.arguments) if self.arguments else found


def _plain_hints(function: Callable[..., Any]) -> dict[str, type]:
    """The arguments of a function that are annotated with a class, which null is none of."""
    try:
        hints = get_type_hints(function)
    except (NameError, TypeError):
        # Annotations of the user's own that name nothing at run time.
        return {}
    return {name: hint for name, hint in hints.items() if isinstance(hint, type)}


OwnMetrics = dict[
    str, Annotated[MetricConfig, arguments_apart("label", "higher_is_better", "averageable",
                                                 "interval")]
]  # fmt: skip
"""Metrics by name."""
