"""Composing a configuration outside of a command, and turning it into plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from vqr1.cli import mixtures
from vqr1.config import config_dir


def plain_values(composed: DictConfig) -> dict[str, Any]:
    """A composed configuration as plain containers, interpolations resolved."""
    values = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def compose_config(config_name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose one primary configuration (`train`, `eval`, ...) as its command would.

    Args:
        config_name: name of a YAML file at the top of the configuration folder.
        overrides: command-line overrides, such as `dataset=kadid+tid`.
    """
    mixtures.register()
    with initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
        return compose(config_name=config_name, overrides=list(overrides))
