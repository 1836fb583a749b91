"""A killed loader worker is one error, raised where a batch is asked for."""

from __future__ import annotations

import multiprocessing
import multiprocessing.resource_sharer as sharer
import os
import signal
import time

import psutil
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vqr1.data import loader_workers
from vqr1.data.loader_workers import watched


class WorkerIds(Dataset[int]):
    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, index: int) -> int:
        return os.getpid()


class KillsInFinaliser:
    """A finaliser in which the worker dies: what is raised there, Python prints and drops."""

    def __init__(self, worker: int) -> None:
        self.worker = worker
        self.ran = False

    def __del__(self) -> None:
        os.kill(self.worker, signal.SIGKILL)
        # Until the last of its threads is dead: a zombie's queue thread may outlive it a moment.
        os.waitid(os.P_PID, self.worker, os.WEXITED | os.WNOWAIT)
        Finished.count += 1


class Finished:
    count = 0


def test_a_death_within_a_finaliser_is_raised_at_the_next_batch(
    capfd: pytest.CaptureFixture[str],
) -> None:
    batches = watched(iter(DataLoader(WorkerIds(), batch_size=None, num_workers=1)))
    victim = KillsInFinaliser(next(batches))
    del victim
    assert Finished.count == 1
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid"):
        next(batches)
    assert capfd.readouterr().err == ""


def test_a_death_while_a_batch_is_waited_for_is_raised_there() -> None:
    loader = DataLoader(WorkerIds(), batch_size=None, num_workers=1, prefetch_factor=1)
    batches = watched(iter(loader))
    worker = psutil.Process(next(batches))
    next(batches)
    # It waits for work, and holds no lock that others wait for.
    end = time.monotonic() + 60
    while worker.status() != psutil.STATUS_SLEEPING:
        assert time.monotonic() < end
        time.sleep(0.01)
    time.sleep(0.3)
    # Stopped, it sends nothing more; killed, it never will.
    worker.suspend()
    worker.kill()
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid"):
        list(batches)


def test_a_lock_that_a_dead_worker_held_is_not_waited_for_for_ever() -> None:
    loader = DataLoader(WorkerIds(), batch_size=None, num_workers=1, prefetch_factor=1)
    own = iter(loader)
    lock = own._workers_done_event._cond  # type: ignore[attr-defined]
    batches = watched(own)
    worker = psutil.Process(next(batches))
    # Nobody gives it back, as nobody does for a worker that ended while it asked whether to end.
    lock.acquire()
    worker.kill()
    begin = time.monotonic()
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid"):
        list(batches)
    own._shutdown_workers()  # type: ignore[attr-defined]
    assert time.monotonic() - begin < 30
    assert not worker.is_running()


class DiesSlowly(Dataset[Tensor]):
    """Its worker closes the socket of its tensors, as a killed one does, and dies later."""

    def __init__(self) -> None:
        self.closed = multiprocessing.Event()

    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, index: int) -> Tensor:
        if index == 1:
            own = sharer._resource_sharer  # type: ignore[attr-defined]
            while own._listener is None:  # until the first tensor is on its way
                time.sleep(0.01)
            time.sleep(0.2)
            own._listener.close()
            self.closed.set()
            time.sleep(1.0)
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.arange(3)


@pytest.mark.medium
def test_a_batch_that_a_dying_worker_does_not_hand_over_is_its_death() -> None:
    images = DiesSlowly()
    batches = watched(iter(DataLoader(images, batch_size=None, num_workers=1, prefetch_factor=2)))
    # The first batch waits in the queue; the socket that gives its tensor is closed.
    assert images.closed.wait(30)
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid"):
        next(batches)


class Refuses(Dataset[int]):
    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, index: int) -> int:
        raise OSError("no such photograph")


def test_an_error_that_a_worker_sent_is_raised_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_workers, "_SECONDS_TO_DIE", 60.0)
    batches = watched(iter(DataLoader(Refuses(), batch_size=None, num_workers=1)))
    begin = time.monotonic()
    with pytest.raises(OSError, match="no such photograph"):
        next(batches)
    assert time.monotonic() - begin < 30
