"""Runs a command under Hydra and turns a user's mistake into one message and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig

from vqr1.cli import mixtures
from vqr1.cli.compose import (
    BAD_GROUP,
    USER_ERRORS,
    all_problems,
    bad_group,
    check_hydra_folders,
    user_message,
)
from vqr1.cli.help import asks_for_help, command_help, only_prints
from vqr1.config import config_dir, interpolations
from vqr1.config.override_problems import check_options
from vqr1.distributed.environment import RankInfo, is_launched
from vqr1.distributed.launcher_tasks import is_first_task, refuse_tasks
from vqr1.distributed.stop_signals import Stopped, stop_signals
from vqr1.errors import EXIT_INTERRUPTED, ConfigError, NotMetError, RunFaultError, UserError
from vqr1.outputs import NewFolders, named_folders
from vqr1.standard_streams import guard_output
from vqr1.storage_faults import storage_line
from vqr1.sweeps.command import Command as Command
from vqr1.sweeps.command import Complete, GoOn

EXIT_USER_ERROR = UserError.exit_code

T = TypeVar("T")

ReportsHere = Callable[[str, int], bool]


def _alone(message: str, code: int) -> bool:
    return True


def reports(info: RankInfo, message: str, code: int) -> bool:
    """Whether this rank prints why the run ends: exactly one of them does."""
    if not info.launched:
        return True
    # PyTorch takes seconds to import.
    from vqr1.distributed.rendezvous import report_once

    return report_once(info, message, code)


def run_command(
    config_name: str,
    schema: type[T],
    task: Callable[[T, DictConfig], Any],
    check: Callable[[T], None] | None = None,
    reports_here: ReportsHere = _alone,
    go_on: GoOn = lambda run_dir: "",
    complete: Complete = lambda composed, overrides: None,
) -> None:
    """Compose, validate and run one command with the process's arguments.

    Args:
        config_name: primary configuration in the configuration folder.
        schema: dataclass that the composed configuration must fit.
        task: receives the typed configuration and the composed one (for logging it whole).
        check: further rules, checked for every job of a sweep before the first starts.
        reports_here: whether this process prints a message with an exit code, or another one does.
        go_on: how the user continues in a folder, after an interrupt or a fault of the disk.
        complete: completes a composed configuration, see `Command`.
    """
    guard_output(quiet=only_prints(sys.argv[1:]))
    folders = NewFolders(named_folders(config_name, sys.argv[1:]))
    command = Command(schema, task, check, complete, go_on)
    mixtures.register()
    interpolations.register()
    # Hydra shortens tracebacks and exits with code 1 by itself unless this is set; here every
    # exception has to arrive, because user errors and defects are distinguished below.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        if asks_for_help(sys.argv[1:]):
            sys.stdout.write(command_help(config_name, schema, sys.argv[1:]))
            return
        check_options(sys.argv[1:])
        check_hydra_folders(config_name, sys.argv[1:])
        with stop_signals():
            hydra.main(config_path=str(config_dir()), config_name=config_name, version_base="1.3")(
                command
            )()
    except UserError as error:
        stop(error, reports_here)
    except HydraException as error:
        if command.composed_once:
            _stop(user_message(error), EXIT_USER_ERROR, reports_here)
        stop(ConfigError(all_problems(config_name, schema, sys.argv[1:], error)), reports_here)
    except USER_ERRORS as error:
        _stop(user_message(error), EXIT_USER_ERROR, reports_here)
    except BAD_GROUP as error:
        # Hydra has made the folder, and the command has not begun.
        disk = storage_line(error, command.run_dir or next(named_folders(config_name, sys.argv)))
        if disk is not None:
            stop(RunFaultError(f"{disk}{go_on(command.run_dir)}"), reports_here)
        if command.composed_once:
            raise  # a defect: the configuration was composed
        stop(bad_group(error, sys.argv[1:]), reports_here)
    except KeyboardInterrupt as end:
        name = end.signal_name if isinstance(end, Stopped) else "SIGINT"
        sys.stdout.flush()
        sys.stderr.write(f"stopped by {name}{go_on(command.run_dir)}\n")
        sys.exit(EXIT_INTERRUPTED)
    if command.failures:
        _report_failures(command, folders, reports_here)


def _report_failures(
    command: Command[Any], folders: NewFolders, reports_here: ReportsHere
) -> NoReturn:
    if any(isinstance(error, NotMetError) for error in command.failures):
        reports_here = _alone
    code = max(getattr(error, "exit_code", EXIT_USER_ERROR) for error in command.failures)
    # Other ranks may still write there.
    if code == EXIT_USER_ERROR and not is_launched():
        folders.remove_unused(command.folders)
    _stop("\n".join(user_message(error) for error in command.failures), code, reports_here)


def refuse_launcher(command: str, *, torchrun: bool = False) -> None:
    """End a process that a launcher started beside others which would all do the same work.

    Args:
        command: what the user calls it.
        torchrun: the command shares its work among the processes of torchrun.
    """
    try:
        refuse_tasks(command, torchrun=torchrun)
    except UserError as error:
        stop(error, lambda message, code: is_first_task())


def stop(error: UserError, reports_here: ReportsHere = _alone) -> NoReturn:
    """End the process with an error's one message and its exit code."""
    _stop(str(error), error.exit_code, reports_here)


def _stop(message: str, code: int, reports_here: ReportsHere) -> NoReturn:
    sys.stdout.flush()
    if reports_here(message.strip(), code):
        sys.stderr.write(f"error: {message.strip()}\n")
    sys.exit(code)
