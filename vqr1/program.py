"""What the user types to run a command, for every message that names one.

A command is started as a file of the checkout (`python train.py`) or by the installed program
(`vqr1 train`, `python -m vqr1 train`). A hint gives the form of this process's own start: an
installed package has no `train.py`.

What a message shows to be typed comes from here, whole or in parts: `command_line` and `in_shell`
quote words for the shell, `setting` and `hydra_value` quote a value for Hydra's override grammar,
which has its own marks. Without that a folder called `a,b` or `目录` is none once it is pasted.

Not here: finding and running a command (`vqr1.cli.main`).
"""

from __future__ import annotations

import os
import re
import shlex
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

_PLAIN_VALUE = re.compile(r"[A-Za-z_./@%+-][A-Za-z0-9_./@%+-]*|[0-9]+")
"""Values that Hydra's grammar takes as they are, beside those of `_NO_TEXT`."""
_NO_TEXT = re.compile(r"true|false|null|[+-]?(nan|inf|[0-9.][0-9_.e+-]*)", re.IGNORECASE)
"""What would be read as something else than a text."""
_WORSE_IN_DOUBLE_QUOTES = set('"\\$`!')

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


def command_line(command: str, *words: str) -> str:
    """A whole command as the user types it into a shell.

    Args:
        command: its name, such as `train` or `data verify`.
        words: its arguments, none of them quoted but for Hydra (`override`).
    """
    name, *rest = command.split()
    return " ".join([program(name), *map(in_shell, (*rest, *words))])


def setting(key: str, value: object) -> str:
    """`key=value` as the user types it into a shell, whatever the value is."""
    return in_shell(override(key, value))


def override(key: str, value: object) -> str:
    """`key=value` as a command takes it for an override that gives this text or path."""
    return f"{key}={hydra_value(str(value))}"


def hydra_value(text: str) -> str:
    r"""A text as a value of Hydra's override grammar that gives it back; a number stays one.

    >>> print(hydra_value("outputs/a"), hydra_value("a,b=c"), hydra_value("null"))
    outputs/a 'a,b=c' 'null'
    """
    if _PLAIN_VALUE.fullmatch(text) and (text.isdigit() or not _NO_TEXT.fullmatch(text)):
        return text
    # OmegaConf would look the name up.
    text = re.sub(r"(\\*)\$\{", lambda found: f"{found[1] * 2}\\${{", text)
    # Within quotes a backslash means itself, but for those before a quote.
    inner = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text)
    return f"'{inner}'"


def installing(extra: str) -> str:
    """The command that installs what an extra of this package needs.

    >>> print(installing("timm"))
    pip install 'vqr1[timm]'
    """
    return f"pip install {in_shell(f'{PROGRAM}[{extra}]')}"


def in_shell(word: str) -> str:
    """A word as the user types it into a shell.

    >>> print(in_shell("a=1"), in_shell("a='b c'"), in_shell("a b"))
    a=1 "a='b c'" 'a b'
    """
    if "'" in word and not set(word) & _WORSE_IN_DOUBLE_QUOTES:
        return f'"{word}"'
    return shlex.quote(word)


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
