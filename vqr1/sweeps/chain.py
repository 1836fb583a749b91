"""`vqr1 train chain=[sft,grpo]`: trainings one after the other, each from the export of the last.

Each is an ordinary run in a process of its own, in a folder of the chain's folder. All of them are
composed and checked before the first begins. The same command again, or `resume=FOLDER`, continues:
what has finished is not repeated, what was stopped is resumed.

Not here: what the trainings of a chain are (`chain_plan.py`), one training (`vqr1.cli.train`).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from vqr1.distributed.environment import RankInfo
from vqr1.errors import EXIT_INTERRUPTED, ConfigError, UserError
from vqr1.outputs import CHAIN, check_folder
from vqr1.program import STARTED_AS, command_line, override, setting, started_as
from vqr1.sweeps.chain_plan import KEY, RECORD, Link, links_of, read_chain, write_chain
from vqr1.training.run_lookup import key_of, value_of, whole_search_path

FOLDER = "hydra.run.dir"

CheckLink = Callable[[list[str], dict[str, Any] | None], dict[str, Any]]
"""Composes and checks one training from its overrides and the values of the one before, and gives
its values; a `ConfigError` has every rule that it breaks."""


class _LinkError(UserError):
    """A training of a chain did not finish.

    Args:
        message: which, and how to continue.
        code: the training's exit code.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code


def run_chain(
    info: RankInfo,
    arguments: Sequence[str],
    command: Sequence[str],
    check: CheckLink,
) -> bool:
    """Run the chain that a command line asks for, or continues.

    Args:
        info: this process; a chain starts the processes of its trainings itself.
        arguments: the command line without the program.
        command: how one training is started, before its arguments.
        check: checks a training before any begins.

    Returns:
        Whether the command line was that of a chain; False does nothing.

    Raises:
        UserError: a mistake, or a training that did not finish.
    """
    own = {key_of(a): value_of(a) for a in arguments if "=" in a}
    resumed = Path(own.get("resume", "")).expanduser()
    continues = KEY not in own and "resume" in own and (resumed / RECORD).is_file()
    asked = continues or own.get(KEY, "null") != "null"
    if info.report is not None or not asked:
        return False
    if info.launched or {"-m", "--multirun"} & set(arguments):
        raise ConfigError(
            [f"{KEY}: it starts the processes of its trainings itself; run it without a launcher "
             "and without -m"]
        )  # fmt: skip
    if KEY in own and "resume" in own:
        raise ConfigError([f"{KEY}, resume={own['resume']}: give one of them"])
    if continues:
        further = [argument for argument in arguments if key_of(argument) != "resume"]
        if further:
            raise ConfigError(
                [f"{KEY}, resume={resumed}, {' '.join(further)}: a chain continues as it was "
                 "started; leave that out, or resume one of its trainings with it, such as "
                 f"{setting('resume', resumed / links_of(read_chain(resumed))[0].name)}"]
            )  # fmt: skip
        folder, arguments = resumed.resolve(), read_chain(resumed)
    else:
        _check_arguments(arguments, own)
        # A later `resume=` may be given in another working directory.
        arguments = [whole_search_path(argument) for argument in arguments]
        named = own.get("run_dir", "null")
        new = f"outputs/train/{datetime.now():%Y-%m-%d_%H-%M-%S}"
        folder = Path(new if named in ("", "null") else named).expanduser().resolve()
    links = links_of(arguments)
    check_folder(folder, CHAIN, "run_dir")
    _check(links, folder, check)
    write_chain(folder, arguments)
    for number, link in enumerate(links):
        before = folder / links[number - 1].name if number else None
        _run_link(link, folder, before, command)
    print(f"the chain has finished: {folder / links[-1].name}", flush=True)
    return True


def _check_arguments(arguments: Sequence[str], own: dict[str, str]) -> None:
    """Check what a chain cannot take.

    Raises:
        ConfigError: an option, or Hydra's own key of the folder.
    """
    problems = [
        f"{KEY}, {argument}: a chain takes no options; give it to one training, with stage="
        for argument in arguments
        if argument.startswith("-")
    ]
    if FOLDER in own:
        problems.append(
            f"{FOLDER}={own[FOLDER]}: the folder of a chain is given with "
            f"{setting('run_dir', own[FOLDER])}"
        )
    if problems:
        raise ConfigError(problems)


def _check(links: Sequence[Link], folder: Path, check: CheckLink) -> None:
    """Check all trainings, each with what it takes over from the one before.

    Raises:
        ConfigError: every rule that one of them breaks, with its name.
    """
    recorded: dict[str, Any] | None = None
    problems: list[str] = []
    for link in links:
        try:
            recorded = check([*link.overrides, override("run_dir", folder)], recorded)
        except ConfigError as error:
            problems += [f"{KEY}, {link.name}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(problems)


def _run_link(link: Link, folder: Path, before: Path | None, command: Sequence[str]) -> None:
    """Run, resume or pass over one training."""
    from vqr1.distributed.launch import passing_signals_on

    own = folder / link.name
    if link.finished(folder):
        print(f"{KEY}: {link.name} has finished already", flush=True)
        return
    arguments = [override("resume", own)]
    if not link.begun(folder):
        start = [] if before is None else [override("init_from", before)]
        place = [override("run_dir", own), override("hydra.run.dir", own)]
        arguments = [*link.overrides, *start, *place]
    print(f"{KEY}: {link.name} in {own}", flush=True)
    started: list[subprocess.Popen[bytes]] = []
    with passing_signals_on(started) as passed:
        # A session of its own: Ctrl-C reaches this process, which passes it on.
        started.append(
            subprocess.Popen(
                [*command, *arguments],
                env={**os.environ, STARTED_AS: started_as()},
                start_new_session=True,
            )
        )
        for number in passed:
            started[0].send_signal(number)
        code = started[0].wait()
    if code == 0 and link.finished(folder):
        return
    what = "was stopped" if code == EXIT_INTERRUPTED else f"failed (exit code {code})"
    later = "" if before is None else " (those before it are not repeated)"
    raise _LinkError(
        f"{KEY}: {link.name} {what}; the trainings after it have not begun. Continue the chain "
        f"with {continuing(folder)}{later}",
        code if code > 0 else 1,
    )


def continuing(folder: Path) -> str:
    """The command that continues a chain."""
    return command_line("train", override("resume", folder))
