"""Commands with options of their own before `key=value` overrides, such as `vqr1 plan --check`."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn, TypeVar

from vqr1.cli.app import EXIT_USER_ERROR, refuse_launcher
from vqr1.cli.compose import USER_ERRORS, compose_config, plain_values, user_message
from vqr1.config import DataConfig, DatasetConfig, config_dir, validate
from vqr1.config.override_problems import as_override
from vqr1.errors import RunFaultError
from vqr1.program import command_line, name_of
from vqr1.standard_streams import guard_output
from vqr1.storage_faults import storage_line

T = TypeVar("T")

_NONE: Mapping[str, str] = {}
_NO_CHOICE = re.compile(r"argument (--[\w-]+): invalid choice: '([\w-]*)'")


class OptionParser(argparse.ArgumentParser):
    """Options beside overrides; what belongs into an override is answered with how it is given.

    Args:
        command: name of the command, such as `data inspect`.
        description: what it does, lines as they are.
        epilog: what its help ends with, lines as they are.
        groups: by option, the configuration group whose choices are taken for its values.
    """

    def __init__(
        self, command: str, description: str, epilog: str = "", groups: Mapping[str, str] = _NONE
    ) -> None:
        super().__init__(
            prog=name_of(command),
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self._command, self._groups = command, groups

    def error(self, message: str) -> NoReturn:
        """End with one line, as for any other mistake."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            option = next((word for word in unknown.split() if word.startswith("-")), unknown)
            message = f"{unknown}: no such option; {as_override(option)}"
        refused = _NO_CHOICE.match(message)
        if refused is not None:
            message = message.removeprefix("argument ")
            group = self._groups.get(refused[1])
            if group is not None and (config_dir() / group / f"{refused[2]}.yaml").is_file():
                message += f"; did you mean {group}={refused[2]}?"
        help_of = command_line(self._command, "--help")
        self.exit(EXIT_USER_ERROR, f"error: {message} (all options: `{help_of}`)\n")


def load_data_config(overrides: Sequence[str] = ()) -> DataConfig:
    """Compose and validate `conf/data.yaml`.

    Raises:
        ConfigError: every key that breaks a rule.
    """
    return validate(DataConfig, plain_values(compose_config("data", overrides)))


def named_parts(config: DataConfig) -> dict[str, tuple[str, DatasetConfig]]:
    """By set name, its dotted configuration key and its configuration."""
    dataset = config.dataset
    if isinstance(dataset, DatasetConfig):
        return {dataset.set_name: ("dataset", dataset)}
    return {name: (f"dataset.parts.{name}", part) for name, part in dataset.parts.items()}


def positive(text: str) -> int:
    """A whole number above 0, for `argparse`.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def run_options(
    parser: argparse.ArgumentParser,
    task: Callable[[argparse.Namespace, T], None],
    arguments: Sequence[str] | None = None,
    load: Callable[[Sequence[str]], T] = load_data_config,  # type: ignore[assignment]
) -> int:
    """Parse, compose, run; a user's mistake becomes one message.

    Args:
        parser: the command's own options; `overrides` is added after them.
        task: the command.
        arguments: in place of the process's own.
        load: gives the configuration of the overrides.

    Returns:
        The exit code: 0, or that of the user's mistake.
    """
    guard_output(quiet=True)
    refuse_launcher(parser.prog)
    parser.add_argument(
        "overrides", nargs="*", help="configuration, such as dataset=koniq dataset.root=data/koniq"
    )
    options = parser.parse_intermixed_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        task(options, load(options.overrides))
    except USER_ERRORS as error:
        sys.stderr.write(f"error: {user_message(error).strip()}\n")
        return getattr(error, "exit_code", EXIT_USER_ERROR)
    except OSError as error:
        disk = storage_line(error, getattr(options, "out", None) or "the disk")
        if disk is None:
            raise
        sys.stderr.write(f"error: {disk}, and give the command again\n")
        return RunFaultError.exit_code
    return 0
