"""Renamed keys and names of metrics: what earlier versions recorded is read under present names.

A renamed key is refused where it is given, with its new name.
"""

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
    "part": "split",
    "loader.images_per_batch": "loader.batch_size",
    "loader.images_per_step": "loader.global_batch_size",
    "validation.images_per_batch": "validation.batch_size",
    "grpo.inner_iterations": "grpo.num_iterations",
    "hardware.collective_minutes": "hardware.process_group_timeout_minutes",
    "callbacks.watchdogs.no_signal": "callbacks.watchdogs.zero_variance",
    "figures": "statistics",
}
"""New dotted key by old dotted key, of a value or of a group of values; the values are the same."""

_RECORDED = {"labels.part": "split", "_target_": "target"}
"""The same of settings that only an evaluation's record has."""

NAMES: dict[str, str] = {
    "well_formed": "format_compliant",
    "well_formed_rate": "format_compliance_rate",
    "zero_signal_rate": "zero_variance_rate",
    "left_out": "excluded",
    "draws_left_out": "draws_excluded",
    "references_left_out": "references_excluded",
}
"""Present name by earlier name: metrics (what follows the last `/`), columns of files of
predictions, keys of `summary.json` and `metrics.json`."""

_TAGGED = {"answer._target_": "vqr1.iqa.answers.TaggedAnswer", "answer.tag": "answer"}
_FORMS: dict[Any, dict[str, Any]] = {
    "think_answer": {**_TAGGED, "answer.reasoning": "think"},
    "answer": {**_TAGGED, "answer.reasoning": None},
    "free": {"answer._target_": "vqr1.iqa.answers.FreeText"},
}
"""Keys of the answer forms that `prompt.answer_format` named, as `conf/answer` has them."""


def present_key(key: str) -> str:
    """A dotted key under its present name: its own, or that of a group it is in."""
    for old, new in RENAMED.items():
        if key == old or key.startswith(f"{old}."):
            return new + key[len(old) :]
    return key


def present_name(name: str) -> str:
    """The present name of a metric or a column."""
    group, slash, last = name.rpartition("/")
    return group + slash + NAMES.get(last, last)


def present_names(record: Any) -> Any:
    """A JSON document, its keys under their present names."""
    if isinstance(record, Mapping):
        return {present_name(str(key)): present_names(value) for key, value in record.items()}
    if isinstance(record, list):
        return [present_names(value) for value in record]
    return record


def renamed_keys(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record by dotted keys under their present names."""
    present = {present_key(_RECORDED.get(key, key)): value for key, value in record.items()}
    if "answer" not in present:
        return present
    named = present.pop("answer")
    if named == "free":
        present.pop("answer.score_range", None)
    return present | _FORMS[named]


def old_keys(record: Mapping[str, Any]) -> list[str]:
    """The dotted keys of a record that have been renamed since."""
    return [key for key in record if present_key(key) != key]


def renamed_override(override: str) -> str:
    """A command-line override under its key's present name."""
    key, equals, value = override.partition("=")
    name = key.lstrip("+~")
    return key[: len(key) - len(name)] + present_key(name) + equals + value


def renamed_problem(key: str) -> str | None:
    """The one line for a key that is no longer known by this name; None for any other key."""
    name = present_key(key)
    return None if name == key else f"{key}: renamed to {name}"
