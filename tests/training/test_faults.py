"""Each fault of a machine is one line; everything else keeps its traceback."""

from __future__ import annotations

import errno
import io
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from tests.cli.conftest import Command, run  # noqa: F401 - a fixture
from tools.faults.killed_sweep import command, prepare, state
from vqr1.cli.train import main
from vqr1.distributed.stop_requests import StopRequests
from vqr1.errors import Interrupted, RunFaultError
from vqr1.tracking import run_log
from vqr1.training import faults
from vqr1.training.faults import fault_message, machine_faults

HERE = Path("runs/one")
WORKER = "DataLoader worker (pid 7) is killed by signal: Killed. "


@pytest.mark.parametrize(
    ("error", "printed"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "a/b: No space left on device"),
        (OSError(errno.EROFS, "Read-only file system"), "runs/one: Read-only file system"),
        (SafetensorError("I/O error: No space left (os error 28)"), "runs/one: I/O error"),
        (RuntimeError(WORKER), "a loader worker died (DataLoader worker (pid 7)"),
        (
            RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nx: can't allocate"),
            "lower loader.workers",
        ),
        (MemoryError(), "host memory ran out"),
        (torch.OutOfMemoryError("CUDA out of memory"), "lower hardware.micro_batch_tokens"),
        (
            RuntimeError(
                "[third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer"
            ),
            "lost the connection to another process of this run",
        ),
        (RuntimeError("Application timeout caused pair closure"), "lost the connection"),
    ],
)
def test_machine(error: Exception, printed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "get_world_size", lambda: 2)
    with pytest.raises(RunFaultError) as stopped, machine_faults(StopRequests(), HERE):
        raise error
    assert printed in str(stopped.value)
    assert "\n" not in str(stopped.value)
    assert stopped.value.exit_code == 74


@pytest.mark.parametrize(
    "error",
    [RuntimeError("shapes differ"), OSError(errno.ENOENT, "No such file"), SafetensorError("bad"),
     RuntimeError("Caught KeyError in DataLoader worker process 0.")],
)  # fmt: skip
def test_defects_pass(error: Exception) -> None:
    assert fault_message(error, HERE) is None
    with pytest.raises(type(error)), machine_faults(StopRequests(), HERE):
        raise error


def test_a_folder_with_a_librarys_name_is_no_lost_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/gloomy/a.png")
    shapes = RuntimeError("/data/gloomy/a.png: shapes differ")
    assert fault_message(missing, HERE) is None
    assert fault_message(shapes, HERE) is None
    monkeypatch.setattr(faults, "get_world_size", lambda: 2)
    assert fault_message(missing, HERE) is None


class DyingWorker(io.RawIOBase):
    """A file in whose write the news of a dead worker arrives, as in a signal handler."""

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        raise RuntimeError(WORKER)


def test_a_worker_that_dies_while_a_checkpoint_is_written() -> None:
    # The writer of PyTorch's archive, left half-way, raises an error of its own on top.
    with pytest.raises(RuntimeError) as raised:
        torch.save({"weights": torch.zeros(10)}, DyingWorker())
    message = fault_message(raised.value, HERE)
    assert message is not None
    assert message.startswith("a loader worker died")


def test_a_worker_that_went_first_after_a_signal_is_no_fault() -> None:
    stops = StopRequests()
    stops.signal = "SIGTERM"
    with pytest.raises(Interrupted), machine_faults(stops, HERE):
        raise RuntimeError(WORKER)


@pytest.mark.medium
def test_an_interrupted_sweep_states_how_it_continues(
    run: Command,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepare(tmp_path, {})
    # A busy machine needs longer for what is delivered within a few seconds elsewhere.
    monkeypatch.setattr(run_log, "INTERRUPTED_SECONDS", 120.0)
    start: Any = subprocess.Popen

    def interrupted(arguments: Any, *more: Any, **named: Any) -> Any:
        if any("hydra.run.dir" in str(argument) for argument in arguments):
            raise KeyboardInterrupt
        return start(arguments, *more, **named)

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    argv = command(2, "hydra/launcher=processes", "hydra.launcher.n_jobs=1")
    outcome = run(main, *argv[2:])
    assert outcome.code == 75
    assert outcome.err.splitlines()[-1] == "stopped by SIGINT"
    assert "the sweep is stopped; the same command again continues with it" in outcome.out
    assert state(tmp_path).parent.info.status == "KILLED"
