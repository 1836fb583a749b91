"""A process does not outlive the one that started it."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection

import psutil
import pytest

from vqr1.distributed.parents import end_with_parent

_context = multiprocessing.get_context("spawn")


def works(beginning: bool, pipe: Connection) -> None:
    if beginning:
        end_with_parent()
    pipe.send(psutil.Process().pid)
    time.sleep(60)


def starts(beginning: bool, pipe: Connection) -> None:
    _context.Process(target=works, args=(beginning, pipe)).start()
    time.sleep(60)


@pytest.mark.medium
@pytest.mark.parametrize("beginning", [True, False])
def test_a_child_ends_with_a_parent_that_is_killed(beginning: bool) -> None:
    reads, writes = _context.Pipe(duplex=False)
    parent = _context.Process(target=starts, args=(beginning, writes))
    parent.start()
    assert reads.poll(60)
    child = psutil.Process(reads.recv())
    parent.kill()
    parent.join()
    _, alive = psutil.wait_procs([child], timeout=60 if beginning else 1)
    for process in alive:
        process.kill()
    assert len(alive) == (0 if beginning else 1)
