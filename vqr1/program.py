"""What the user types to run a command, for every message that names one.

A command is started as a file of the checkout (`python train.py`) or by the installed program
(`vqr1 train`, `python -m vqr1 train`). A hint gives the form of this process's own start: an
installed package has no `train.py`.

Not here: finding and running a command (`vqr1.cli.main`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

PROGRAM = "vqr1"
MODULE = f"python -m {PROGRAM}"

SCRIPTS = {"train": "train.py", "eval": "eval.py", "score": "score.py", "serve": "score.py serve"}
"""Commands that a checkout has a file for, and how that is called."""

STARTED_AS = "VQR1_STARTED_AS"
"""Environment variable of processes that a command starts: the name that it was started by itself,
which theirs does not show."""

_MODULES = ("vqr1", "cli")
"""Folders of a command's module, by which it may be started too."""


def started_as(environment: Mapping[str, str] = os.environ) -> str:
    """What the user started this command by: `train.py`, `vqr1 train`, `python -m vqr1 train`."""
    if STARTED_AS in environment:
        return environment[STARTED_AS]
    path = Path(sys.argv[0])
    if path.parts[-2:] == (PROGRAM, "__main__.py"):
        return MODULE
    # `python -m vqr1.cli.train` has the module's path here.
    return PROGRAM if path.absolute().parts[-3:-1] == _MODULES else path.name


def installed_program() -> str:
    """The program with every command, as this process was started: `vqr1` or `python -m vqr1`."""
    return MODULE if started_as().startswith(MODULE) else PROGRAM


def name_of(command: str) -> str:
    """A command as a message calls it: `train.py`, `vqr1 train` or `python -m vqr1 train`."""
    file = SCRIPTS.get(command)
    by_file = started_as() in {name.partition(" ")[0] for name in SCRIPTS.values()}
    return file if file is not None and by_file else f"{installed_program()} {command}"


def program(command: str) -> str:
    """A command as the user types it: `python train.py`, `vqr1 train` or `python -m vqr1 train`."""
    name = name_of(command)
    return f"python {name}" if name in SCRIPTS.values() else name


def under_torchrun(name: str) -> str:
    """What torchrun is given for a name of `name_of`: `train.py` or `-m vqr1 train`."""
    return name if name in SCRIPTS.values() else f"-m {name.removeprefix('python -m ')}"


def own_command() -> list[str]:
    """Program and first arguments of a process that runs this process's command again."""
    name, _, command = Path(sys.argv[0]).name.removeprefix("python -m ").partition(" ")
    if name == PROGRAM and command:
        # `-P` keeps files of the working directory from hiding packages.
        return [sys.executable, "-P", "-m", PROGRAM, command]
    return [sys.executable, sys.argv[0]]
