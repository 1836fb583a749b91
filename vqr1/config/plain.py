"""A composed configuration as plain containers, nested or flat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vqr1.errors import ConfigError


def plain_values(composed: DictConfig) -> dict[str, Any]:
    """A composed configuration as plain containers, interpolations resolved.

    Raises:
        ConfigError: a value contains itself.
    """
    try:
        values = OmegaConf.to_container(composed, resolve=True)
    except RecursionError as error:
        raise ConfigError(["the configuration holds a value that contains itself"]) from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def flatten(
    values: Mapping[Any, Any], prefix: str = "", *, keep_empty: bool = True
) -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys.

    Args:
        values: mappings, lists and plain values; lists stay as they are.
        prefix: put before every key.
        keep_empty: an empty mapping stays as a value; otherwise it disappears.

    >>> flatten({"a": {"b": 1, "c": {}}, "d": [2]})
    {'a.b': 1, 'a.c': {}, 'd': [2]}
    >>> flatten({"a": {"b": 1, "c": {}}}, keep_empty=False)
    {'a.b': 1}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and (value or not keep_empty):
            flat |= flatten(value, f"{name}.", keep_empty=keep_empty)
        else:
            flat[name] = value
    return flat
