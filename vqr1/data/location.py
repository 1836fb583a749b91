"""Where data sets lie unless their configuration states otherwise.

Not here: what is in a set's folder (`labels/`).
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from vqr1.config import DatasetConfig, MixtureConfig
from vqr1.errors import ConfigError, raise_together
from vqr1.program import command_line

VARIABLE = "VQR1_DATA"
"""Environment variable that holds the folder of all sets."""
_MADE = ("demo", "hub")
"""Sets that are made or fetched where they are opened."""


def data_folder() -> Path:
    """The folder of all sets: `$VQR1_DATA`, or `data` in the current folder."""
    return Path(os.path.expanduser(os.environ.get(VARIABLE) or "data"))


def side_folder(config: DatasetConfig, root: Path) -> Path:
    """The folder that files of a user's own lie in beside a set: pairs, lists of a split.

    Args:
        config: the set.
        root: its folder; that of a hub set is one of the cache, and its own one here counts.
    """
    path = Path(os.path.expanduser(config.path or ""))
    if config.name == "hub" and path.exists():
        return path if path.is_dir() else path.parent
    return root


def check_folders(dataset: DatasetConfig | MixtureConfig) -> None:
    """Check that every set has a folder, before any is opened; nothing is fetched or made.

    Args:
        dataset: one set, or a mixture.

    Raises:
        ConfigError: all that have none.
    """
    sets = (
        {f"dataset.parts.{name}": part for name, part in dataset.parts.items()}
        if isinstance(dataset, MixtureConfig)
        else {"dataset": dataset}
    )
    asked = [(config, key) for key, config in sets.items() if config.name not in _MADE]
    raise_together(*(partial(_check_folder, config, key) for config, key in asked))


def _check_folder(config: DatasetConfig, key: str) -> None:
    check_folder(set_folder(config, key), key)


def check_folder(root: str | Path, key: str) -> None:
    """Check that a set's folder is there, and can be listed.

    Args:
        root: the folder.
        key: the set's dotted configuration key, for the error message.

    Raises:
        ConfigError: it is not, or cannot be.
    """
    name = f"{key}.root={str(root)!r}"
    try:
        if not Path(root).is_dir():
            raise ConfigError([f"{name}: no such folder; set it to the one with the set's labels"])
        os.scandir(root).close()
    except PermissionError as error:
        raise ConfigError([f"{name}: the folder cannot be listed ({error.strerror})"]) from error


def set_folder(config: DatasetConfig, key: str) -> Path:
    """A set's folder: `root`, the one that `vqr1 data download` lays it into, or a hub set's.

    Args:
        config: the set.
        key: its dotted configuration key, for error messages.

    Raises:
        ConfigError: no `root`, and the set is not where it would be downloaded to; or `root` and
            `path` do not fit the set.
        DataError: a hub set cannot be read.
    """
    if config.name == "hub":
        from vqr1.data.hub import ensure_hub_set  # of no other set

        if config.root is not None:
            raise ConfigError(
                [f"{key}.root={config.root!r}: a hub set is at {key}.path; remove it"]
            )
        return ensure_hub_set(config, key)
    if config.path is not None:
        raise ConfigError(
            [f"{key}.path={config.path!r}: of dataset=hub only; {config.name} is at {key}.root"]
        )
    if config.root is not None:
        return Path(os.path.expanduser(config.root))
    if config.name == "demo":
        from vqr1.data.demo import ensure_demo_set  # builds images; no other set needs it

        return ensure_demo_set()
    from vqr1.data.labels import label_format  # reads tables, which takes pandas

    hint = f"for example {key}.root=data/{config.name}"
    if label_format(config.name, key).published_range is not None:
        folder = data_folder() / config.name
        if folder.is_dir():
            return folder
        hint = (
            f"or fetch the set with `{command_line('data download', config.name)}` "
            f"({folder} is not there)"
        )
    raise ConfigError(
        [
            f"{key}.root=None: set it to the folder that holds the {config.name} labels and "
            f"images, {hint}"
        ]
    )
