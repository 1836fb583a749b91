"""`vqr1 COMMAND ...`: every command by one program.

    vqr1 train max_steps=100      vqr1 eval model.run=best      vqr1 score photos/

Each command is a module here, imported when it is asked for: `--help` and a mistyped name wait for
nothing. Shell completion is Hydra's own (`eval "$(vqr1 -sc install=bash)"`, docs/commands.md): this
module only finds which command's configuration a line is about.

Not here: what a command does, and the files `train.py`, `eval.py`, `score.py` of a checkout.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from vqr1.errors import UserError
from vqr1.program import PROGRAM, installed_program
from vqr1.standard_streams import guard_output


@dataclass(frozen=True)
class Subcommand:
    """One command.

    Attributes:
        module: its module in this package.
        summary: what it does, in one line.
        first: arguments of the module before those of the user.
        config: its primary configuration, whose keys a shell completes; None has none.
    """

    module: str
    summary: str
    config: str | None = None
    first: tuple[str, ...] = ()


COMMANDS = {
    "train": Subcommand("train", "train a policy, resume a training, or sweep (-m)", "train"),
    "eval": Subcommand("evaluate", "evaluate a model or predictions, compare evaluations", "eval"),
    "score": Subcommand("score", "score, describe or compare images", "score"),
    "serve": Subcommand("score", "scores and descriptions over HTTP", "serve", ("serve",)),
    "export": Subcommand("export", "a training's checkpoint as a folder, or to the hub", "export"),
    "data": Subcommand("data", "list, download, verify, inspect sets, prepare their JSONL", "data"),
    "plan": Subcommand("plan", "memory and time of a training, before it starts", "train"),
    "sync": Subcommand("sync", "send what runs could not report to the MLflow server"),
    "summarize": Subcommand("summarize", "the table of a sweep, also while it runs"),
    "report": Subcommand("report", "the report of a finished run as a page, made again"),
    "doctor": Subcommand("doctor", "what this machine can run, and what is missing"),
}

_COMPLETION = ("-sc", "--shell-completion", "--shell_completion")
_QUERY = "query="


def main() -> None:
    """Entry point of `vqr1` and of `python -m vqr1`."""
    arguments = sys.argv[1:]
    if not arguments:
        known = ", ".join(COMMANDS)
        _refuse(f"name a command: {known}; `{installed_program()} --help` lists what each does")
    name, rest = arguments[0], arguments[1:]
    if name.startswith("-"):
        guard_output(quiet=True)
    if name in ("-h", "--help"):
        sys.stdout.write(help_text())
        return
    if name == "--version":
        from vqr1 import __version__

        sys.stdout.write(f"{PROGRAM} {__version__}\n")
        return
    if name in _COMPLETION:
        complete(rest)
        return
    command = COMMANDS.get(name)
    if command is None:
        _refuse(unknown_command(name))
    # One word, as if the command were a program of its own: Hydra and argparse read it there.
    sys.argv = [f"{installed_program()} {name}", *command.first, *rest]
    sys.exit(importlib.import_module(f"vqr1.cli.{command.module}").main())


def help_text() -> str:
    """What `--help` prints."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{command.summary}" for name, command in COMMANDS.items()]
    called = installed_program()
    return (
        f"usage: {called} COMMAND ...\n\n"
        + "\n".join(lines)
        + f"\n\n`{called} COMMAND --help` explains a command; `{called} --version`.\n"
    )


def unknown_command(name: str) -> str:
    """The message for a name that is no command."""
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    if near:
        return f"{name}: no such command; did you mean `{installed_program()} {near[0]}`?"
    return f"{name}: no such command; there are {', '.join(COMMANDS)}"


def complete(arguments: Sequence[str]) -> None:
    """Answer a shell: with the names of commands, or by Hydra from a command's configuration.

    Args:
        arguments: `install=bash`, `uninstall=bash` or `query=bash` (zsh uses bash's; fish). For a
            query the line so far is in `COMP_LINE`.
    """
    query = any(argument.startswith(_QUERY) for argument in arguments)
    config = "train"
    if query:
        line = os.environ.get("COMP_LINE", "")
        words = line.split()
        if len(words) < 2 or (len(words) == 2 and not line.endswith(" ")):
            begun = words[1] if len(words) == 2 else ""
            print(" ".join(name for name in COMMANDS if name.startswith(begun)))
            return
        command = COMMANDS.get(words[1])
        if command is None or command.config is None or words[-1].startswith("-"):
            return
        config = command.config
        # Hydra takes the first word as the program, and every other one as an override.
        own = " ".join(word for word in words[2:] if "=" in word or word == words[-1])
        os.environ["COMP_LINE"] = f"{PROGRAM} {own}" + (" " if line.endswith(" ") else "")
    sys.argv = [PROGRAM, "-sc", *arguments]
    import hydra

    from vqr1.cli import mixtures
    from vqr1.config import config_dir, interpolations

    mixtures.register()
    interpolations.register()
    hydra.main(config_path=str(config_dir()), config_name=config, version_base="1.3")(bool)()


def _refuse(message: str) -> NoReturn:
    sys.stderr.write(f"error: {message}\n")
    sys.exit(UserError.exit_code)
