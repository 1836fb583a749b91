"""Renamed keys: refused where they are given, mapped where an earlier run recorded them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED: dict[str, str] = {
    "grpo.loss": "loss.averaging",
    "grpo.clip": "loss.clip",
    "grpo.kl_weight": "loss.kl_weight",
    "grpo.advantage_std": "advantage.std",
    "prompt.answer_format": "answer",
    "prompt.score_range": "answer.score_range",
}
"""New dotted key by old dotted key; the values are the same."""

_TAGGED = {"answer._target_": "vqr1.iqa.answers.TaggedAnswer", "answer.tag": "answer"}
_FORMS: dict[Any, dict[str, Any]] = {
    "think_answer": {**_TAGGED, "answer.reasoning": "think"},
    "answer": {**_TAGGED, "answer.reasoning": None},
    "free": {"answer._target_": "vqr1.iqa.answers.FreeText"},
}
"""Keys of the answer forms that `prompt.answer_format` named, as `conf/answer` has them."""


def renamed_keys(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record by dotted keys under their present names."""
    present = {RENAMED.get(key, key): value for key, value in record.items()}
    if "answer" not in present:
        return present
    named = present.pop("answer")
    if named == "free":
        present.pop("answer.score_range", None)
    return present | _FORMS[named]


def old_keys(record: Mapping[str, Any]) -> list[str]:
    """The dotted keys of a record that have been renamed since."""
    return [key for key in RENAMED if key in record]


def renamed_override(override: str) -> str:
    """A command-line override under its key's present name."""
    key, equals, value = override.partition("=")
    name = key.lstrip("+~")
    return key[: len(key) - len(name)] + RENAMED.get(name, name) + equals + value


def renamed_problem(key: str) -> str | None:
    """The one line for a key that is no longer known by this name; None for any other key."""
    return f"{key}: renamed to {RENAMED[key]}" if key in RENAMED else None
