"""Composing a configuration, turning it into plain values, and wording what goes wrong in it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from vqr1.cli import mixtures
from vqr1.config import config_dir, model_defaults
from vqr1.config.plain import plain_values as plain_values
from vqr1.config.renamed import renamed_problem
from vqr1.errors import ConfigError, UserError
from vqr1.outputs import EVALUATION, SWEEP, TRAINING, check_records

USER_ERRORS = (UserError, HydraException, OmegaConfBaseException, yaml.YAMLError)
"""What a user's mistake raises, on the command line, in a configuration file or in data."""

BAD_GROUP = (ValueError, TypeError, OSError, RecursionError)
"""What Hydra raises for a group that is given numbers, a mapping, or a name no file can have, and
for a file with a YAML alias inside of its own value."""

_SHOWN = 200

_NO_KEY = re.compile(r"Could not override '([^']+)'")
"""Hydra's words for a key on the command line that the configuration does not have."""

_SEVERAL = re.compile(r"Ambiguous value for argument '(.*)'$", re.MULTILINE)
"""Hydra's words for a value with commas that is no list."""

_NOISE = (
    "full_key:",
    "object_type=",
    "reference_type=",
    "See https://hydra.cc",
    "Config search",
    "provider=",
)


_HYDRA_FOLDERS: dict[str, dict[str, str]] = {
    "hydra.run.dir": {"train": TRAINING, "eval": EVALUATION},
    "hydra.sweep.dir": {"train": SWEEP},
}
"""What the folders of these keys may hold already, by command."""


def compose_config(config_name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose one primary configuration (`train`, `eval`, ...) as its command would.

    Args:
        config_name: name of a YAML file at the top of the configuration folder.
        overrides: command-line overrides, such as `dataset=kadid+tid`.

    Raises:
        Exception: one of `USER_ERRORS`.
    """
    mixtures.register()
    model_defaults.register()
    with initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
        try:
            return compose(config_name=config_name, overrides=list(overrides))
        except HydraException:
            raise  # a choice that does not exist is an `OSError` too
        except BAD_GROUP as error:
            raise bad_group(error, overrides) from error


def bad_group(error: Exception, overrides: Sequence[str]) -> ConfigError:
    """The error for one of `BAD_GROUP`, with the arguments that it came from."""
    given = " ".join(overrides)
    printed = " ".join(str(error).split())
    return ConfigError([f"{printed[:_SHOWN]} (given: {given[:_SHOWN]})"])


def user_message(error: Exception) -> str:
    """What to report to a user: our own errors as they are, a library's in one line."""
    if isinstance(error, UserError):
        return str(error)
    cause = "" if error.__cause__ is None else str(error.__cause__)
    several = _SEVERAL.match(str(error))
    if several is not None:
        override = several[1]
        return (
            f"{override}: commas make several values of it, one run each with --multirun"
            f"{_quoting(override)}"
        )
    unknown = _unknown_key(str(error))
    if unknown is not None:
        return unknown
    if isinstance(error, OverrideParseException):
        reason = " ".join(str(error).split())
        return f"{error.override}: no readable override ({reason}){_quoting(error.override)}"
    printed = str(error).removeprefix("ConfigError raised while resolving interpolation: ")
    lines = [line.strip() for line in f"{printed}\n{cause}".splitlines()]
    shown = list(dict.fromkeys(line for line in lines if line and not line.startswith(_NOISE)))
    text = shown[0] if shown else type(error).__name__
    listing = False
    for before, line in pairwise(shown):
        text += " " if before.endswith(":") else ", " if listing else "; "
        listing = listing or before.endswith(":")
        text += line
    return text


def _quoting(override: str) -> str:
    """How a value is written that holds marks of Hydra's own, such as commas and brackets."""
    key, equals, value = override.partition("=")
    if not equals or not key or value[:1] in ("'", '"', "[", "{", "$", ""):
        return ""
    # The shell takes away the outer marks, Hydra the inner ones.
    if not set(value) & set("'\"\\$`!"):
        return f"; quote a text with marks in it twice: \"{key}='{value}'\""
    return f"; quote a text with marks in it for Hydra and for the shell: {_in_shell(key, value)}"


def _in_shell(key: str, value: str) -> str:
    quote = '"' if "'" in value else "'"
    end = len(value) - len(value.rstrip("\\"))
    inner = (value + "\\" * end).replace(quote, f"\\{quote}")
    return shlex.quote(f"{key}={quote}{inner}{quote}")


def _unknown_key(message: str) -> str | None:
    """The one line for a key that Hydra did not find; None for anything else."""
    found = _NO_KEY.search(message)
    if found is None:
        return None
    # Hydra's own advice, to add the key with `+`, ends in a refusal where no choice has the key.
    return renamed_problem(found[1]) or (
        f"{found[1]}: no such key in this configuration; `--help` lists its keys, and another "
        "choice of a group may have it"
    )


def check_hydra_folders(config_name: str, arguments: Sequence[str]) -> None:
    """Check the folders that Hydra writes into before it calls a command.

    Args:
        config_name: the command's primary configuration.
        arguments: its command line; a folder with an interpolation is not known yet, and is named
            after the time.

    Raises:
        ConfigError: one holds what another command wrote.
    """
    for argument in arguments:
        key, _, value = argument.partition("=")
        own = _HYDRA_FOLDERS.get(key.lstrip("+"))
        if own is not None and "$" not in value:
            folder = value.strip("'\"")
            check_records(Path(folder), own.get(config_name), key.lstrip("+"))
