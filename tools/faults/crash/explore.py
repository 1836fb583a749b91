"""A scenario, recorded, and the program's recovery on every state that a power loss may leave."""

from __future__ import annotations

import io
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from tools.faults.crash.disk import State, states
from tools.faults.crash.recording import Commit, recorded

Note = Callable[[object], None]


class LostError(AssertionError):
    """What was found after a power loss is not what it had to be."""


@dataclass(frozen=True)
class Known:
    """What had been called done when the power went.

    Attributes:
        done: in order; never empty where the scenario begins with something.
        coming: what would have been called done next; None at the end.
    """

    done: Sequence[object]
    coming: object = None

    def check(self, found: object) -> None:
        """The last thing that was done, or the one that was being done.

        Raises:
            LostError: something else was found.
        """
        allowed = [*self.done[-1:], self.coming]
        if found not in allowed:
            raise LostError(f"found {found!r}, expected one of {allowed!r}")


class Scenario:
    """Something that must survive. One object is one recording.

    Attributes:
        name: of the scenario.
        begins: what counts as done from the beginning.
        tears: see `disk.states`; fewer where a recovery takes long.
    """

    name = ""
    begins: tuple[object, ...] = ()
    tears = 40

    def prepare(self, folder: Path) -> None:
        """Fill the folder with what is on the disk already."""

    def act(self, folder: Path, note: Note) -> None:
        """Write; call `note` with each thing that is done."""
        raise NotImplementedError

    def recover(self, folder: Path, known: Known) -> None:
        """Run the program's own recovery, and compare.

        Raises:
            LostError: something is missing, mixed, doubled, or refused.
        """
        raise NotImplementedError


@dataclass
class Explored:
    """What became of a scenario.

    Attributes:
        name: of the scenario.
        events: that were recorded.
        states: that were recovered from; each is another folder, or another time of the same.
        seconds: that all this took.
        violations: what was found wrong, in words.
    """

    name: str
    events: int = 0
    states: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)


def explore(scenario: Scenario, most: int | None = None) -> Explored:
    """Record a scenario and recover from every state.

    Args:
        scenario: a new one.
        most: violations after which no further state is tried; None tries all.
    """
    begin = time.monotonic()
    result = Explored(scenario.name)
    with _working_folder() as place, _quiet():
        folder = place / "recorded"
        folder.mkdir()
        scenario.prepare(folder)
        with recorded(folder) as recording:
            scenario.act(folder, recording.commit)
        result.events = len(recording.events)
        noted = [event.value for event in recording.events if isinstance(event, Commit)]
        shutil.rmtree(folder)
        for state in states(recording, scenario.tears):
            result.states += 1
            known = Known(
                (*scenario.begins, *noted[: state.commits]),
                noted[state.commits] if state.commits < len(noted) else None,
            )
            problem = _problem(scenario, folder, state, known)
            if problem is not None:
                result.violations.append(f"after event {state.events}: {problem}")
                if len(result.violations) == most:
                    break
    result.seconds = time.monotonic() - begin
    return result


def _problem(scenario: Scenario, folder: Path, state: State, known: Known) -> str | None:
    """What is wrong with a recovery; None if nothing is."""
    folder.mkdir()
    for path, content in state.files:
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)
    try:
        scenario.recover(folder, known)
    except Exception as error:  # noqa: BLE001 - whatever a recovery raises is what is looked for
        shown = {
            path: None if c is None else c.replace(b"\0", b".")[:120] for path, c in state.files
        }
        return f"{type(error).__name__}: {error}\n  the folder: {shown}"
    finally:
        shutil.rmtree(folder)
    return None


@contextmanager
def _working_folder() -> Iterator[Path]:
    """A new folder, in memory where the system has such a place."""
    memory = Path("/dev/shm")  # nosec B108 - a new folder in it
    parent = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="vqr1_crash_", dir=parent) as place:
        yield Path(place)


@contextmanager
def _quiet() -> Iterator[None]:
    """No log lines, no progress, and no waiting for a disk: the recording decides what is on it."""

    def nothing(*_: object) -> None:
        return None

    logging.disable(logging.ERROR)
    try:
        with (
            mock.patch.multiple(os, fsync=nothing, fdatasync=nothing, sync=nothing),
            redirect_stderr(io.StringIO()),
            redirect_stdout(io.StringIO()),
        ):
            yield
    finally:
        logging.disable(logging.NOTSET)
