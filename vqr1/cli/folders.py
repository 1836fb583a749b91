"""Making the folders that a command writes to, before it does anything else."""

from __future__ import annotations

from pathlib import Path

from vqr1.errors import ConfigError


def make_folders(**folders: str | None) -> None:
    """Make folders that may be there already.

    Args:
        folders: by configuration key, dots written as `__`; None is no folder.

    Raises:
        ConfigError: every folder that cannot be made.
    """
    problems = []
    for name, folder in folders.items():
        if folder is None:
            continue
        try:
            Path(folder).expanduser().mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problems.append(
                f"{name.replace('__', '.')}={folder}: the folder cannot be made "
                f"({error.strerror}); choose another place"
            )
    if problems:
        raise ConfigError(problems)
