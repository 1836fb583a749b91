"""Checking composed values against a schema: all problems at once, one line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from vqr1.config.renamed import renamed_problem
from vqr1.errors import ConfigError

T = TypeVar("T")


def validate(schema: type[T], values: Mapping[str, Any]) -> T:
    """Check composed values against a schema and build the typed configuration.

    Args:
        schema: one of the dataclasses of `vqr1.config`, or a user's own in the same manner.
        values: plain containers (interpolations resolved), as
            `OmegaConf.to_container(config, resolve=True)` gives them.

    Raises:
        ConfigError: every unknown key, wrong type and value out of range, one line each: dotted
            key, value found, rule.
    """
    try:
        return TypeAdapter(schema).validate_python(values)
    except ValidationError as error:
        problems = [validation_problem(detail) for detail in error.errors(include_url=False)]
    raise ConfigError(list(dict.fromkeys(problems)))


def validation_problem(detail: Mapping[str, Any], prefix: str = "") -> str:
    """One line for one validation error; the union's branch names are no part of the key.

    Args:
        detail: of pydantic's `ValidationError.errors`.
        prefix: dotted key of what was validated, empty for the whole configuration.
    """
    branches = {"single", "mixture", "<local>", "<openai>", "<vllm>"}
    names = (prefix, *(str(part) for part in detail["loc"] if part not in branches))
    key = ".".join(name for name in names if name)
    if detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        renamed = renamed_problem(key)
        return renamed or f"{key}: unknown key; remove it or correct its spelling"
    if detail["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{key}: missing; give it a value, for example on the command line: {key}=..."
    message = detail["msg"][0].lower() + detail["msg"][1:]
    return f"{key}={detail['input']!r}: {message}"
