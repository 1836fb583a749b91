"""`dataset=a+b+c`: a Hydra config source that composes mixtures from single data sets.

Hydra asks every config source on its search path for `dataset/a+b+c`. This one answers any name of
the group `dataset` that holds a `+` with a config whose defaults list places each part at
`dataset.parts.<name>`. The parts are then looked up as usual, so an unknown one gets Hydra's own
message with the available choices.
"""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from vqr1.errors import ConfigError

GROUP = "dataset"
SEPARATOR = "+"


def mixture_parts(config_path: str) -> list[str] | None:
    """Names in `dataset/a+b+c`, or None when the path is no mixture."""
    group, _, name = config_path.removesuffix(".yaml").rpartition("/")
    if group.strip("/") != GROUP or SEPARATOR not in name:
        return None
    return name.split(SEPARATOR)


class MixtureConfigSource(ConfigSource):
    """Answers for mixtures of the group `dataset`; holds no files."""

    @staticmethod
    def scheme() -> str:
        """URL scheme of this source."""
        return "mixture"

    def load_config(self, config_path: str) -> ConfigResult:
        """Build the config of one mixture.

        Raises:
            ConfigError: an empty name between two `+`, or a set named twice.
        """
        parts = mixture_parts(config_path)
        if parts is None:
            raise ConfigLoadError(f"no mixture: {config_path}")
        _check_parts(parts)
        placed = [{f"/{GROUP}@parts.{part}": part} for part in parts]
        return ConfigResult(
            provider=self.provider,
            path=f"{self.scheme()}://{self.path}",
            config=OmegaConf.create({"defaults": [*placed, "_self_"], "weights": None}),
            header={"package": None},
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


def _check_parts(parts: list[str]) -> None:
    mixture = SEPARATOR.join(parts)
    if "" in parts:
        raise ConfigError([f"dataset={mixture}: empty name beside a '+'; write dataset=a+b"])
    twice = sorted({part for part in parts if parts.count(part) > 1})
    if twice:
        raise ConfigError(
            [f"dataset={mixture}: {', '.join(twice)} stands twice; name each set once"]
        )
