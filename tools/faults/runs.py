"""Starting demo trainings in processes of their own, and reading what they left."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tools.faults import child, forked
from tools.faults.mlflow_database import new_database

ARGUMENTS = (
    "dataset.max_images=12", "loader.batch_size=3", "grpo.group_size=3", "max_steps=7",
    "validation.every_steps=3", "validation.max_images=6", "validation.samples=2",
    "validation.bootstrap_draws=20", "callbacks.checkpoint.every_steps=2", "hardware.threads=1",
    "rollout.sampling.max_new_tokens=32",
)  # fmt: skip
"""The demo training, small: 7 steps over epochs of 4, all else as by default."""

TIMEOUT = 600.0

Key = tuple[str, int]
History = dict[Key, tuple[float, ...]]


class Training:
    """One process of the training command in a folder.

    Args:
        folder: its working directory; MLflow's database and the run directory `run` are in it.
        arguments: the command's.
        tweak: name of one of `child.TWEAKS`.
    """

    def __init__(self, folder: Path, *arguments: str, tweak: str | None = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "phases.txt").write_text("")
        (folder / "output.txt").write_text("")
        self._process = forked.start(child.run, arguments, str(folder), tweak)

    @property
    def pid(self) -> int:
        """Process number."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def output(self) -> str:
        """What it printed."""
        return (self.folder / "output.txt").read_text()

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.is_alive()

    def wait(self) -> int:
        """Its exit code; minus a signal's number if that ended it."""
        self._process.join(TIMEOUT)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            raise TimeoutError(f"no end within {TIMEOUT} s:\n{self.output}")
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone, unless it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait_until(self, phase: str, count: int) -> bool:
        """Wait for the `count`th beginning of a phase; False if the run ended before."""
        return self.wait_for(lambda: Counter(begun(self.folder))[phase] >= count)

    def wait_for(self, condition: Callable[[], bool]) -> bool:
        """Wait for a condition; False if the run ended before it held."""
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end:
            alive = self.alive()
            if condition():
                return True
            if not alive:
                return False
            time.sleep(0.002)
        raise TimeoutError(f"waited {TIMEOUT} s:\n{self.output}")


def begun(folder: Path) -> list[str]:
    """Phases that a run has begun, in order."""
    return [line.split()[0] for line in _marks(folder) if " begin " in line]


def intervals(folder: Path) -> dict[str, list[float]]:
    """Durations in seconds of every phase, in order of their ends."""
    started: dict[str, float] = {}
    found: dict[str, list[float]] = {}
    for line in _marks(folder):
        phase, what, moment = line.split()
        if what == "begin":
            started[phase] = float(moment)
        else:
            found.setdefault(phase, []).append(float(moment) - started[phase])
    return found


def _marks(folder: Path) -> Iterator[str]:
    text = (folder / "phases.txt").read_text()
    yield from text[: text.rfind("\n") + 1].splitlines()


@dataclass(frozen=True)
class Result:
    """What a finished run left.

    Attributes:
        weights: SHA-256 by tensor of the exported policy and of the last saved state: weights,
            optimizer state.
        history: values of every metric at every step; two where it was logged twice.
        status: status of every MLflow run.
    """

    weights: dict[str, str]
    history: History
    status: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Comparison:
    """A recovered run against the uninterrupted one.

    Attributes:
        weights: every tensor has the same bits.
        values: every metric that both have is the same.
        missing: metrics at a step that only the uninterrupted run has.
        doubled: metrics at a step that are logged twice, or that only the recovered run has.
    """

    weights: bool
    values: bool
    missing: int
    doubled: int

    @property
    def identical(self) -> bool:
        """The same in everything."""
        return self.weights and self.values and not self.missing and not self.doubled


def read_result(folder: Path, run_dir: Path | None = None) -> Result:
    """Read a finished run of a folder."""
    run_dir = run_dir or folder / "run"
    # Imported late: the parent process of many runs need not read tensors before the first ended.
    from safetensors.torch import load_file

    from vqr1.training.checkpoint_files import read_checkpoint

    weights = {f"export.{k}": _digest(v) for k, v in load_file(
        run_dir / "export" / "model.safetensors").items()}  # fmt: skip
    last = max((run_dir / "checkpoints").glob("step_*.ckpt"))
    state = read_checkpoint(last)
    weights |= {f"state.{k}": _digest(v) for k, v in state["state_dict"].items()}
    for number, moments in state["optimizer_states"][0]["state"].items():
        weights |= {f"optimizer.{number}.{k}": _digest(v) for k, v in moments.items()}
    return Result(weights, *_read_metrics(folder / "mlflow.db"))


def _digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def _read_metrics(database: Path) -> tuple[History, list[str]]:
    """All metrics but durations and memory, which no two runs share."""
    history: dict[Key, list[float]] = {}
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select key, step, value, is_nan from metrics").fetchall()
        status = [row[0] for row in connection.execute("select status from runs")]
    for key, step, value, is_nan in rows:
        if "time/" not in key and "memory" not in key:
            history.setdefault((key, step), []).append(math.nan if is_nan else value)
    return {key: tuple(values) for key, values in history.items()}, status


def compare(result: Result, reference: Result) -> Comparison:
    """Hold a recovered run against the uninterrupted one."""
    missing = [key for key in reference.history if key not in result.history]
    doubled = [
        key
        for key, values in result.history.items()
        if len(values) > 1 or key not in reference.history
    ]
    same = all(
        _equal(values[0], reference.history[key][0])
        for key, values in result.history.items()
        if key in reference.history
    )
    return Comparison(result.weights == reference.weights, same, len(missing), len(doubled))


def _equal(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


class Workshop:
    """Folders for trainings, and the uninterrupted one that all are compared with.

    Args:
        folder: everything happens in it.
        arguments: of every training.
        tweak: of every training that names none.
    """

    def __init__(
        self, folder: Path, arguments: Sequence[str] = ARGUMENTS, tweak: str | None = None
    ) -> None:
        self.folder = folder
        self.tweak = tweak
        self.arguments = tuple(arguments)
        self._database = folder / "empty.db"
        new_database(self._database)
        whole = self.start("whole", "run_dir=run")
        if whole.wait() != 0:
            raise RuntimeError(f"the uninterrupted run failed:\n{whole.output}")
        self.reference = read_result(whole.folder)
        self.phases = intervals(whole.folder)

    def start(self, name: str, *more: str, tweak: str | None = None) -> Training:
        """Start the training in a folder of its own; a second start there continues in it."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "mlflow.db").exists():
            shutil.copyfile(self._database, folder / "mlflow.db")
        return Training(folder, *self.arguments, *more, tweak=tweak or self.tweak)

    def resume(self, name: str, *more: str) -> Training:
        """Continue in a folder by the same command with `resume=auto`."""
        return self.start(name, "run_dir=run", "resume=auto", *more)


def resumed_result(workshop: Workshop, name: str, *more: str) -> tuple[int, Any]:
    """Resume to the end.

    Returns:
        Exit code, and the comparison (None where it did not finish).
    """
    training = workshop.resume(name, *more)
    code = training.wait()
    if code != 0:
        return code, None
    return code, compare(read_result(training.folder), workshop.reference)
