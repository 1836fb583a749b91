"""From `_target_` and its arguments to an object, with mistakes worded by key."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from pydantic import BeforeValidator, ValidationError
from pydantic.dataclasses import is_pydantic_dataclass

from vqr1.config.validation import validation_problem
from vqr1.errors import ConfigError


def arguments_apart(*typed: str) -> BeforeValidator:
    """Puts the keys of a chosen class that the schema does not type into `arguments`."""

    def split(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        own = {key: value[key] for key in ("_target_", *typed) if key in value}
        return {**own, "arguments": {k: v for k, v in value.items() if k not in own}}

    return BeforeValidator(split)


def build_target(key: str, target: str, arguments: Mapping[str, Any]) -> object:
    """Instantiate the class that a configuration group names.

    A pydantic dataclass checks types and ranges of its arguments; any other class is given them as
    they are, and raises ValueError or TypeError for those that it refuses.

    Args:
        key: dotted key of the group, for messages.
        target: import path of the class.
        arguments: by name.

    Raises:
        ConfigError: there is no such class, or it does not take an argument or its value.
    """
    # Hydra takes long to import, and its grammar is not needed here otherwise.
    from hydra.utils import get_class

    try:
        chosen = get_class(target)
    except (ImportError, ValueError) as error:
        printed = " ".join(str(error).split())
        raise ConfigError([f"{key}._target_={target}: no such class ({printed})"]) from error
    try:
        if not is_pydantic_dataclass(chosen):
            inspect.signature(chosen).bind(**arguments)
        built: object = chosen(**arguments)
    except ValidationError as error:
        details = error.errors(include_url=False)
        raise ConfigError([validation_problem(detail, key) for detail in details]) from error
    except (TypeError, ValueError) as error:
        raise ConfigError([f"{key}: {target}: {error}"]) from error
    return built
