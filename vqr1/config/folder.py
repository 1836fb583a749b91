"""Where the configuration files live, and reading one choice without composing a command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from vqr1.errors import ConfigError


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
    """Values of one configuration file that has no defaults list.

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
    from vqr1.config.model_defaults import register

    register()
    others = {} if model is None else {"model": dict(model)}
    composed = OmegaConf.create(
        {**others, group: OmegaConf.merge(OmegaConf.load(file), dict(changes or {}))}
    )
    values = OmegaConf.to_container(composed[group], resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}
