"""Renamed keys: refused where they are given, mapped where an earlier run recorded them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED: dict[str, str] = {
    "grpo.loss": "loss.averaging",
    "grpo.clip": "loss.clip",
    "grpo.kl_weight": "loss.kl_weight",
    "grpo.advantage_std": "advantage.std",
}
"""New dotted key by old dotted key; the values are the same."""


def renamed_keys(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record by dotted keys under their present names."""
    return {RENAMED.get(key, key): value for key, value in record.items()}


def renamed_override(override: str) -> str:
    """A command-line override under its key's present name."""
    key, equals, value = override.partition("=")
    name = key.lstrip("+~")
    return key[: len(key) - len(name)] + RENAMED.get(name, name) + equals + value


def renamed_problem(key: str) -> str | None:
    """The one line for a key that is no longer known by this name; None for any other key."""
    return f"{key}: renamed to {RENAMED[key]}" if key in RENAMED else None
