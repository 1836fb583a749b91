"""Composing a configuration, turning it into plain values, and wording what goes wrong in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vqr1.cli import mixtures
from vqr1.cli.override_problems import hydra_line, override_problems
from vqr1.config import config_dir, model_defaults, validate
from vqr1.config.plain import plain_values as plain_values
from vqr1.errors import ConfigError, UserError
from vqr1.outputs import EVALUATION, SWEEP, TRAINING, check_records

USER_ERRORS = (UserError, HydraException, OmegaConfBaseException, yaml.YAMLError)
"""What a user's mistake raises, on the command line, in a configuration file or in data."""

BAD_GROUP = (ValueError, TypeError, OSError, RecursionError)
"""What Hydra raises for a group that is given numbers, a mapping, or a name no file can have, and
for a file with a YAML alias inside of its own value."""

_SHOWN = 200
_RUN_DIR = re.compile(r"\$\{hydra:runtime\.output_dir\}")

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
            return _compose(config_name, overrides)
        except HydraException as error:
            again = partial(_compose, config_name)
            problems, _ = override_problems(again, overrides, error, user_message)
            raise ConfigError(problems) from error


def all_problems(
    config_name: str, schema: type, arguments: Sequence[str], error: HydraException
) -> list[str]:
    """What is wrong with a command line that Hydra has refused, the values of the rest included.

    Args:
        config_name: the command's primary configuration.
        schema: dataclass of it.
        arguments: the command line without the program.
        error: what Hydra raised.
    """
    again = partial(_compose, config_name)
    with initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
        problems, right = override_problems(again, arguments, error, user_message)
        try:
            composed = again(right)
            name_run_directory(composed, config_name)
            validate(schema, plain_values(composed))
        except ConfigError as further:
            problems += further.problems
        except USER_ERRORS:
            pass  # it is among the problems already
    return problems


def _compose(config_name: str, overrides: Sequence[str]) -> DictConfig:
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


def name_run_directory(composed: DictConfig, config_name: str) -> None:
    """Put a name in place of the folder that Hydra makes once the command runs, in place."""
    for key in list(composed):
        value = composed._get_node(key)
        raw = value._value() if value is not None and not OmegaConf.is_config(value) else None
        if isinstance(raw, str) and _RUN_DIR.search(raw):
            composed[key] = _RUN_DIR.sub(f"outputs/{config_name}/DATE_TIME", raw)


def check_options(arguments: Sequence[str]) -> None:
    """Check the options of a command that has none but Hydra's.

    Raises:
        ConfigError: others, with how a key of the configuration is given.
    """
    _, unknown = get_args_parser().parse_known_args(list(arguments))
    problems = [
        f"{option}: no such option; {as_override(option)}"
        for option in unknown
        if option.startswith("-")
    ]
    if problems:
        raise ConfigError(problems)


def as_override(option: str) -> str:
    """How what was given as an option of argparse is given to Hydra."""
    key, equals, value = option.lstrip("-").replace("-", "_").partition("=")
    return f"a key of the configuration is given as {key}={value if equals else 'VALUE'}"


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
