"""What a user's mistake raises, and the one line for it where a library has raised it.

Not here: a command line of which several things are wrong (`override_problems.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from vqr1.config.override_problems import hydra_line
from vqr1.errors import ConfigError, UserError

USER_ERRORS = (UserError, HydraException, OmegaConfBaseException, yaml.YAMLError)
"""What a user's mistake raises, on the command line, in a configuration file or in data."""

BAD_GROUP = (ValueError, TypeError, OSError, RecursionError)
"""What Hydra raises for a group that is given numbers, a mapping, or a name no file can have, and
for a file with a YAML alias inside of its own value."""

_SHOWN = 200
_NOISE = (
    "full_key:",
    "object_type=",
    "reference_type=",
    "See https://hydra.cc",
    "Config search",
    "provider=",
)


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
    worded = hydra_line(error) if isinstance(error, HydraException) else None
    if worded is not None:
        return worded
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
