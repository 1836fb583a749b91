"""`dataset=a+b+c`, `logger=a+b`, `tasks=a+b`: a Hydra config source that composes several of one.

Hydra asks every config source on its search path for `dataset/a+b+c`. This one answers any name of
the three groups that holds a `+` with a config whose defaults list names each part: data sets are
placed at `dataset.parts.<name>`, loggers share their keys, and tasks place themselves. The parts
are then looked up as usual, so an unknown set gets Hydra's own message with the available choices.
"""

from __future__ import annotations

from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from vqr1.config.machine import LOGGERS
from vqr1.errors import ConfigError

DATASET, LOGGER, TASK = "dataset", "logger", "tasks"
SEPARATOR = "+"


def mixture_parts(config_path: str) -> tuple[str, list[str]] | None:
    """Group and names in `dataset/a+b+c`, or None when the path is no mixture."""
    folder, _, name = config_path.removesuffix(".yaml").rpartition("/")
    group = folder.strip("/")
    if group not in (DATASET, LOGGER, TASK) or SEPARATOR not in name:
        return None
    return group, name.split(SEPARATOR)


class MixtureConfigSource(ConfigSource):
    """Answers for mixtures; holds no files."""

    @staticmethod
    def scheme() -> str:
        """URL scheme of this source."""
        return "mixture"

    def load_config(self, config_path: str) -> ConfigResult:
        """Build the config of one mixture.

        Raises:
            ConfigError: an empty name between two `+`, or a set named twice.
        """
        found = mixture_parts(config_path)
        if found is None:
            raise ConfigLoadError(f"no mixture: {config_path}")
        group, parts = found
        _check_splits(group, parts)
        return ConfigResult(
            provider=self.provider,
            path=f"{self.scheme()}://{self.path}",
            config=OmegaConf.create(_MIXED[group](parts)),
            # Tasks have places of their own, whatever group names them.
            header={"package": "_global_" if group == TASK else None},
        )

    def available(self) -> bool:
        """Always."""
        return True

    def is_group(self, config_path: str) -> bool:
        """No groups of its own."""
        return False

    def is_config(self, config_path: str) -> bool:
        """Whether the path names a mixture."""
        return mixture_parts(config_path) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Nothing: mixtures are open-ended."""
        return []


class MixtureSearchPath(SearchPathPlugin):
    """Adds the mixture source to every application's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the source."""
        search_path.append(provider="vqr1-mixture", path="mixture://dataset")


def register() -> None:
    """Make mixtures known to Hydra; call before composing. Registering twice does nothing."""
    plugins = Plugins.instance()
    if MixtureConfigSource not in plugins.discover(ConfigSource):
        plugins.register(MixtureConfigSource)
        plugins.register(MixtureSearchPath)


def _data_sets(parts: list[str]) -> dict[str, Any]:
    placed = [{f"/{DATASET}@parts.{part}": part} for part in parts]
    return {"defaults": [*placed, "_self_"], "weights": None}


def _loggers(parts: list[str]) -> dict[str, Any]:
    mixture = SEPARATOR.join(parts)
    several = [kind for kind in LOGGERS if kind != "none"]
    unknown = [part for part in parts if part not in several]
    if unknown:
        raise ConfigError(
            [
                f"logger={mixture}: no logger {', '.join(unknown)} among several; choose from "
                f"{', '.join(several)}"
            ]
        )
    # By name, not as a choice of the group: the command line's choice would replace it.
    return {"defaults": [*parts, "_self_"], "name": mixture}


def _tasks(parts: list[str]) -> dict[str, Any]:
    return {"defaults": [*parts, "_self_"]}


_MIXED = {DATASET: _data_sets, LOGGER: _loggers, TASK: _tasks}


def _check_splits(group: str, parts: list[str]) -> None:
    mixture = SEPARATOR.join(parts)
    if "" in parts:
        raise ConfigError([f"{group}={mixture}: empty name beside a '+'; write {group}=a+b"])
    twice = sorted({part for part in parts if parts.count(part) > 1})
    if twice:
        what = "set" if group == DATASET else group
        raise ConfigError(
            [f"{group}={mixture}: {', '.join(twice)} stands twice; name each {what} once"]
        )
