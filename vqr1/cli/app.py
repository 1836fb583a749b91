"""Runs a command under Hydra and turns a user's mistake into one message and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import hydra
from omegaconf import DictConfig

from vqr1.cli import mixtures
from vqr1.cli.compose import BAD_GROUP, USER_ERRORS, bad_group, plain_values, user_message
from vqr1.config import config_dir, validate
from vqr1.errors import UserError

EXIT_USER_ERROR = UserError.exit_code

T = TypeVar("T")


def run_command(config_name: str, schema: type[T], task: Callable[[T, DictConfig], Any]) -> None:
    """Compose, validate and run one command with the process's arguments.

    Args:
        config_name: primary configuration in the configuration folder.
        schema: dataclass that the composed configuration must fit.
        task: receives the typed configuration and the composed one (for logging it whole).
    """
    failures: list[Exception] = []

    composed_once: list[bool] = []

    def job(composed: DictConfig) -> Any:
        composed_once.append(True)
        # Hydra would print its own line above ours; the jobs of a multirun go on.
        try:
            config = validate(schema, plain_values(composed))
        except USER_ERRORS as error:
            failures.append(error)
            return None
        try:
            return task(config, composed)
        except UserError as error:
            failures.append(error)
            return None

    mixtures.register()
    # Hydra shortens tracebacks and exits with code 1 by itself unless this is set; here every
    # exception has to arrive, because user errors and defects are told apart below.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        hydra.main(config_path=str(config_dir()), config_name=config_name, version_base="1.3")(
            job
        )()
    except UserError as error:
        stop(error)
    except USER_ERRORS as error:
        _stop(user_message(error))
    except BAD_GROUP as error:
        if composed_once:
            raise  # a defect: the configuration was composed
        stop(bad_group(error, sys.argv[1:]))
    if failures:
        code = max(getattr(error, "exit_code", EXIT_USER_ERROR) for error in failures)
        _stop("\n".join(user_message(error) for error in failures), code)


def stop(error: UserError) -> NoReturn:
    """End the process with an error's one message and its exit code."""
    _stop(str(error), error.exit_code)


def _stop(message: str, code: int = EXIT_USER_ERROR) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.write(f"error: {message.strip()}\n")
    sys.exit(code)
