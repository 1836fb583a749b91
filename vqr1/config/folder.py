"""Where the configuration files live, and reading one choice without composing a command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vqr1.errors import ConfigError

ANSWER_OVERRIDE = "override /answer@_global_.answer"
"""The entry of a prompt's defaults list that chooses the form of its answer."""


def config_dir() -> Path:
    """Absolute folder of the configuration groups: in the package (wheel) or in the checkout."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parent / "conf"


def read_choice(
    group: str,
    name: str,
    argument: str,
    *,
    changes: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Values of one configuration file, without those of its defaults list.

    Args:
        group: folder below `conf`, such as `model`.
        name: file in it, `-` or `_` alike.
        argument: what the caller calls the name, for the error.
        changes: values in place of the file's own.
        model: values of the group `model`, for a file of another group that takes values from it.

    Raises:
        ConfigError: there is no such file; names those that there are.
    """
    file = config_dir() / group / f"{name.replace('-', '_')}.yaml"
    names = sorted(path.stem for path in file.parent.glob("*.yaml"))
    if file.stem not in names:
        raise ConfigError([f"{argument}={name!r}: there are {', '.join(names)}"])
    from vqr1.config import interpolations

    interpolations.register()
    others = {} if model is None else {"model": dict(model)}
    own = OmegaConf.load(file)
    assert isinstance(own, DictConfig)
    own.pop("defaults", None)
    composed = OmegaConf.create({**others, group: OmegaConf.merge(own, dict(changes or {}))})
    values = OmegaConf.to_container(composed[group], resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def method_has_prompt(name: str) -> bool:
    """Whether a method's file chooses what is asked; files outside of the package are taken to."""
    file = config_dir() / "method" / f"{name}.yaml"
    if not file.is_file():
        return True
    values = OmegaConf.load(file)
    assert isinstance(values, DictConfig)
    return any("override /prompt" in entry for entry in values.get("defaults", []))


def answer_of_prompt(name: str) -> str | None:
    """The form of `conf/answer` that a packaged prompt's file chooses; None where there is none.

    Args:
        name: file of `conf/prompt`, `-` or `_` alike.
    """
    file = config_dir() / "prompt" / f"{name.replace('-', '_')}.yaml"
    if not file.is_file():
        return None
    values = OmegaConf.load(file)
    assert isinstance(values, DictConfig)
    entries = values.get("defaults", [])
    found = [entry.get(ANSWER_OVERRIDE) for entry in entries if ANSWER_OVERRIDE in entry]
    return str(found[0]) if found else None
