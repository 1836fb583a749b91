"""A step that hangs: the Python stacks of all threads of all ranks, in the run directory.

Each rank watches its own steps from a thread. A step that takes many times the median of those
before is taken to hang: the rank writes its stacks and asks the others for theirs by a file, so
that a rank that waits outside of a step is seen too. The lowest rank that answers reports where
each of them is.

| what hangs | who writes the stacks |
|---|---|
| Python code, or a call that waits: a collective, a lock, a file, a server | the thread |
| a call that does not give Python's lock back | faulthandler's own thread, half a limit later |
| the whole process (SIGSTOP, a kernel's wait), or it is gone | nobody, as the report states |

Ranks that do not share the run directory have their own time limits only.

Not here: when a step begins (`callbacks/hung_step.py`), NCCL's and gloo's time-outs
(`vqr1.distributed`).
"""

from __future__ import annotations

import faulthandler
import logging
import os
import re
import statistics
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

from vqr1.config import HungStepConfig

logger = logging.getLogger(__name__)

FOLDER = "stacks"
"""Folder in the run directory, there once a step has hung."""

STEPS = 101
"""Steps that the median is of."""

LATE = 1.5
"""Limits after which faulthandler writes, where the thread could not."""

LOOK_SECONDS = 1.0

_FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$', re.MULTILINE)


class StepWatch:
    """Watches the steps of one rank.

    Args:
        config: the limit.
        run_dir: the run's folder.
        rank: this rank's number.
        ranks: how many there are.
    """

    def __init__(
        self, config: HungStepConfig, run_dir: Path, rank: int = 0, ranks: int = 1
    ) -> None:
        self._config = config
        self._folder = run_dir / FOLDER
        self._rank = rank
        self._ranks = ranks
        self._seconds: deque[float] = deque(maxlen=STEPS)
        self._step = 0
        self._since: float | None = None
        self._written: set[str] = set()
        self._ended = threading.Event()
        self._folder.mkdir(parents=True, exist_ok=True)
        # Open beforehand: faulthandler writes to it without Python's help.
        self._file = _file_of(self._folder, rank).open("a", encoding="utf-8")
        self._began = time.time()
        self._thread = threading.Thread(target=self._watch, name="step-watch", daemon=True)
        self._thread.start()

    @property
    def limit(self) -> float:
        """Seconds after which a step is taken to hang."""
        usual = statistics.median(self._seconds) if self._seconds else 0.0
        return max(self._config.floor_s, self._config.factor * usual)

    def begin(self, step: int) -> None:
        """A step begins."""
        self._step = step
        self._since = time.monotonic()
        faulthandler.dump_traceback_later(LATE * self.limit, file=self._file)

    def end(self) -> None:
        """The step has ended."""
        faulthandler.cancel_dump_traceback_later()
        assert self._since is not None
        self._seconds.append(time.monotonic() - self._since)
        self._since = None

    def close(self) -> None:
        """Stop watching; a file without stacks is removed."""
        faulthandler.cancel_dump_traceback_later()
        self._ended.set()
        self._thread.join()
        path = Path(self._file.name)
        self._file.close()
        if path.is_file() and path.stat().st_size == 0:
            path.unlink()
        # Another rank may remove it meanwhile.
        with suppress(FileNotFoundError):
            if not any(self._folder.iterdir()):
                self._folder.rmdir()

    def _watch(self) -> None:
        while not self._ended.wait(self._look_seconds):
            since, step = self._since, self._step
            asked = self._folder / f"step_{step}"
            hung = since is not None and time.monotonic() - since > self.limit
            if hung and asked.name not in self._written:
                asked.touch()
            for request in self._requests():
                self._written.add(request.name)
                self._write(request.name)
                if not self._wait_for_all(request):
                    return
                self._report(request.name)

    def _wait_for_all(self, request: Path) -> bool:
        """Wait for the stacks of all ranks, faulthandler's too; False where the run ends.

        One that is stopped or gone is waited for until faulthandler would have written.
        """
        last = time.monotonic() + self.limit
        while not self._all_have_written(request) and time.monotonic() < last:
            if self._ended.wait(self._look_seconds):
                return False
        return True

    def _all_have_written(self, request: Path) -> bool:
        asked = request.stat().st_mtime
        files = (_file_of(self._folder, rank) for rank in range(self._ranks))
        return all(file.is_file() and file.stat().st_mtime >= asked for file in files)

    @property
    def _look_seconds(self) -> float:
        return min(LOOK_SECONDS, self.limit / 10)

    def _requests(self) -> list[Path]:
        """Hung steps of any rank that this one has not written its stacks for."""
        return [
            path
            for path in sorted(self._folder.glob("step_*"))
            if path.name not in self._written and path.stat().st_mtime >= self._began - 1
        ]

    def _write(self, hung: str) -> None:
        faulthandler.cancel_dump_traceback_later()
        taken = "between two steps"
        if self._since is not None:
            taken = f"in step {self._step} for {time.monotonic() - self._since:.0f} s"
        usual = f", {statistics.median(self._seconds):.1f} s are usual" if self._seconds else ""
        self._file.write(f"{hung}: rank {self._rank}, process {os.getpid()}, {taken}{usual}\n")
        self._file.flush()
        faulthandler.dump_traceback(self._file)
        os.fsync(self._file.fileno())

    def _report(self, hung: str) -> None:
        """Report where each rank is, from the lowest one that has written."""
        texts = {n: _read(_file_of(self._folder, n)) for n in range(self._ranks)}
        if min((n for n, text in texts.items() if text), default=self._rank) != self._rank:
            return
        places = "; ".join(f"rank {rank}: {place_in(text)}" for rank, text in texts.items())
        logger.error("watchdog %s hangs. %s. All stacks are in %s", hung, places, self._folder)


def place_in(text: str) -> str:
    """Where the main thread of a rank is, from the last stacks that it wrote."""
    if not text:
        return "no stacks, its process is stopped or gone"
    # The main thread is the last of a dump, its innermost frame the first.
    found = _FRAME.findall(re.split(r"^(?:Current thread|Thread) ", text, flags=re.MULTILINE)[-1])
    if not found:
        return "no Python code"
    own = next((frame for frame in found if "vqr1" in Path(frame[0]).parts), found[0])
    inner = f"{Path(found[0][0]).name}:{found[0][1]} {found[0][2]}"
    return inner if own == found[0] else f"{inner}, from {Path(own[0]).name}:{own[1]} {own[2]}"


def _file_of(folder: Path, rank: int) -> Path:
    return folder / f"rank_{rank}.txt"


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
