"""A composed configuration as plain containers, nested or flat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vqr1.errors import ConfigError


def plain_values(composed: DictConfig) -> dict[str, Any]:
    """A composed configuration as plain containers, interpolations resolved."""
    try:
        values = OmegaConf.to_container(composed, resolve=True)
    except RecursionError as error:
        raise ConfigError(["the configuration holds a value that contains itself"]) from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys; empty mappings stay as values."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat
