"""Checking composed values against a schema: all problems at once, one line each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from vqr1.config.nearest import did_you_mean, near_keys
from vqr1.config.plain import flatten
from vqr1.config.renamed import renamed_problem
from vqr1.errors import ConfigError

T = TypeVar("T")

_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
_WORDED = "worded"
"""Type of the errors of `several_problems`."""


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
        details = error.errors(include_url=False)
    unknown = {_key(detail) for detail in details if detail["type"] in _UNKNOWN}
    known = [key for key in flatten(values) if key not in unknown]
    problems = [
        problem for detail in details for problem in validation_problems(detail, known=known)
    ]
    raise ConfigError(list(dict.fromkeys(problems)))


def several_problems(problems: Sequence[str]) -> PydanticCustomError:
    """What a validator raises that has worded its problems itself, from its own key on."""
    return PydanticCustomError(_WORDED, "several problems", {"problems": list(problems)})


def validation_problems(detail: Mapping[str, Any], known: Collection[str] = ()) -> list[str]:
    """The lines for one validation error: one, or those that a validator has worded itself."""
    if detail["type"] == _WORDED:
        above = "".join(f"{part}." for part in detail["loc"][:-1])
        return [f"{above}{problem}" for problem in detail["ctx"]["problems"]]
    return [validation_problem(detail, known=known)]


def validation_problem(
    detail: Mapping[str, Any], prefix: str = "", known: Collection[str] = ()
) -> str:
    """One line for one validation error.

    Args:
        detail: of pydantic's `ValidationError.errors`.
        prefix: dotted key of what was validated, empty for the whole configuration.
        known: dotted keys that there are, of which an unknown one may be meant for one.
    """
    key = _key(detail, prefix)
    if detail["type"] in _UNKNOWN:
        fix = did_you_mean(near_keys(key, known)) or "remove it or correct its spelling"
        return renamed_problem(key) or f"{key}: unknown key; {fix}"
    if detail["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{key}: missing; give it a value, for example on the command line: {key}=..."
    message = detail["msg"][0].lower() + detail["msg"][1:]
    return f"{key}={detail['input']!r}: {message}"


def _key(detail: Mapping[str, Any], prefix: str = "") -> str:
    """The dotted key of an error; the union's branch names are no part of it."""
    branches = {"single", "mixture", "<local>", "<openai>", "<vllm>"}
    names = (prefix, *(str(part) for part in detail["loc"] if part not in branches))
    return ".".join(name for name in names if name)
