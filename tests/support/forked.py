"""Real processes that do not import everything anew: forked from one that has.

A training's imports take longer than most of what is tried in such a process.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
# There is one such server in a test run: it imports what the largest of its children needs.
_context.set_forkserver_preload(["tests.faults.child"])


def start(target: Callable[..., object], *arguments: object) -> ForkServerProcess:
    """Start a function of a module in a process."""
    process = _context.Process(target=target, args=arguments)
    process.start()
    return process


def start_command(module: str, folder: Path, *arguments: str) -> ForkServerProcess:
    """Start a command's `main` in a folder; what it prints is added to `output.txt` there."""
    return start(_run, module, str(folder), arguments)


def _run(module: str, folder: str, arguments: Sequence[str]) -> None:
    enter(folder)
    sys.argv = [f"{module.rpartition('.')[2]}.py", *arguments]
    importlib.import_module(module).main()


def enter(folder: str) -> None:
    """Make this process one that was started in a folder, with its output going to a file."""
    os.chdir(folder)
    with Path("output.txt").open("ab", buffering=0) as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    # A fork server's child would start loader workers by one too, which a command does not.
    multiprocessing.set_start_method("fork", force=True)
