"""Composing a configuration, and reporting everything that is wrong with the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from vqr1.cli import mixtures
from vqr1.config import config_dir, interpolations, validate
from vqr1.config.override_problems import override_problems
from vqr1.config.plain import plain_values as plain_values
from vqr1.config.user_errors import BAD_GROUP as BAD_GROUP
from vqr1.config.user_errors import USER_ERRORS as USER_ERRORS
from vqr1.config.user_errors import bad_group as bad_group
from vqr1.config.user_errors import user_message as user_message
from vqr1.errors import ConfigError
from vqr1.outputs import EVALUATION, SWEEP, TRAINING, check_records

_RUN_DIR = re.compile(r"\$\{hydra:runtime\.output_dir\}")

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
    interpolations.register()
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


def name_run_directory(composed: DictConfig, config_name: str) -> None:
    """Put a name in place of the folder that Hydra makes once the command runs, in place."""
    for key in list(composed):
        value = composed._get_node(key)
        raw = value._value() if value is not None and not OmegaConf.is_config(value) else None
        if isinstance(raw, str) and _RUN_DIR.search(raw):
            composed[key] = _RUN_DIR.sub(f"outputs/{config_name}/DATE_TIME", raw)


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
