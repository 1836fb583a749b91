"""Processes that are started to share a scoring."""

from __future__ import annotations

import os
import signal

import pytest

from vqr1.distributed.environment import RankInfo
from vqr1.errors import RunFaultError
from vqr1.inference.parallel import Progress, run_in_processes


def killed(info: RankInfo, numbers: list[int], advance: Progress) -> None:
    if info.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    advance(len(numbers))


@pytest.mark.medium
def test_a_killed_process_ends_the_command_with_one_line() -> None:
    with pytest.raises(RunFaultError) as caught:
        run_in_processes(killed, [[0, 1], [2]], lambda count: None, "start it again")
    assert str(caught.value).startswith("process 1 of 2 was ended by SIGKILL (")
    assert str(caught.value).endswith("what was evaluated is kept: start it again")
