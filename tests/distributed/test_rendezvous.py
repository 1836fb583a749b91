"""How processes find each other, and what they state when they cannot."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from vqr1.config import HardwareConfig
from vqr1.distributed import rendezvous
from vqr1.distributed.environment import RankInfo, find_rank_info
from vqr1.distributed.rendezvous import connect_ranks, report_once
from vqr1.errors import ConfigError, NotMetError
from vqr1.training.run_record import changed_keys

CHANGED = partial(changed_keys, moved=True)
TORCHRUN = {
    "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node0", "MASTER_PORT": "29500",
}  # fmt: skip


def test_the_place_that_a_launcher_gives() -> None:
    assert find_rank_info({}) == RankInfo()
    place = find_rank_info(dict(TORCHRUN))
    assert (place.rank, place.world_size, place.local_rank, place.local_size) == (5, 8, 1, 4)
    assert place.nodes == 2
    assert place.launched
    with pytest.raises(ConfigError, match="but not LOCAL_RANK, MASTER_PORT; start with torchrun"):
        find_rank_info(
            {k: v for k, v in TORCHRUN.items() if k not in ("LOCAL_RANK", "MASTER_PORT")}
        )
    with pytest.raises(ConfigError, match=r"no number: .*'many'"):
        find_rank_info({**TORCHRUN, "WORLD_SIZE": "many"})
    with pytest.raises(ConfigError, match=r"do not fit together: RANK=8, WORLD_SIZE=8, LOCAL_"):
        find_rank_info({**TORCHRUN, "RANK": "8"})
    with pytest.raises(ConfigError, match=r"LOCAL_WORLD_SIZE=3.*every node starts LOCAL_WORLD"):
        find_rank_info({**TORCHRUN, "LOCAL_WORLD_SIZE": "3"})


def test_the_place_in_a_slurm_step() -> None:
    batch_script = {"SLURM_JOB_ID": "71234", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"}
    assert not find_rank_info(dict(batch_script)).launched
    step = batch_script | {
        "SLURM_PROCID": "6", "SLURM_LOCALID": "2", "SLURM_STEP_NUM_TASKS": "8",
        "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": "gpu[07-08,12]",
    }  # fmt: skip
    place = find_rank_info(step)
    assert (place.rank, place.world_size, place.local_rank, place.nodes) == (6, 8, 2, 2)
    assert step["MASTER_ADDR"] == "gpu07"
    # 15000 and the last four digits of the job's number.
    assert step["MASTER_PORT"] == "16234"


@pytest.mark.parametrize(
    ("nodes", "tasks_per_node", "problem"),
    [
        ("2", "4(x2)", None),
        ("2", None, None),
        # Eight tasks on two nodes, and yet not four on each.
        ("2", "5,3", "SLURM_STEP_TASKS_PER_NODE=5,3: every node must run as many tasks"),
        ("3", None, "SLURM_STEP_NUM_NODES=3, SLURM_STEP_TASKS_PER_NODE=not set: every node"),
        ("0", None, "SLURM_STEP_NUM_NODES=0, "),
        ("some", None, "no number: SLURM_STEP_NUM_NODES='some'"),
    ],
)
def test_a_slurm_step_runs_as_many_tasks_on_every_node(
    nodes: str, tasks_per_node: str | None, problem: str | None
) -> None:
    step = {
        "SLURM_PROCID": "6", "SLURM_LOCALID": "2", "SLURM_STEP_NUM_TASKS": "8",
        "SLURM_STEP_NUM_NODES": nodes,
    }  # fmt: skip
    if tasks_per_node is not None:
        step["SLURM_STEP_TASKS_PER_NODE"] = tasks_per_node
    if problem is None:
        assert find_rank_info(step).local_size == 4
        return
    with pytest.raises(ConfigError, match=re.escape(problem)):
        find_rank_info(step)


def test_a_slurm_step_with_variables_missing() -> None:
    with pytest.raises(ConfigError, match="but not SLURM_LOCALID; start with torchrun, srun"):
        find_rank_info({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"})


@pytest.fixture
def rendezvous_point(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)


def meet(*words: tuple[dict[str, Any], ConfigError | None], wait: float = 60) -> list[str]:
    """What each process of a run is given, one thread each."""
    hardware = HardwareConfig(accelerator="cpu", rendezvous_seconds=wait)
    printed = [""] * len(words)

    def come(rank: int) -> None:
        values, problem = words[rank]
        try:
            info = RankInfo(rank, 2, rank, 2, None, True)
            connect_ranks(info, hardware, values, problem, CHANGED)
        except ConfigError as error:
            printed[rank] = str(error)

    threads = [threading.Thread(target=come, args=(rank,)) for rank in range(len(words))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not dist.is_initialized()
    return printed


@pytest.mark.usefixtures("rendezvous_point")
def test_all_are_given_who_has_another_configuration() -> None:
    one = {"seed": 1, "dataset": {"root": "/disk0/kadid"}, "run_dir": "a"}
    two = {"seed": 2, "dataset": {"root": "/disk1/kadid"}, "run_dir": "b"}
    printed = meet((one, None), (two, None))
    assert printed[0] == printed[1]
    assert printed[0].splitlines() == [
        "process 1 has another configuration than process 0 (0 -> 1):",
        "  seed: 1 -> 2",
        "start all with the same command",
    ]


@pytest.mark.usefixtures("rendezvous_point")
def test_the_first_is_given_of_anothers_problem() -> None:
    problem = ConfigError(["hardware.accelerator=gpu: PyTorch finds no CUDA device"])
    printed = meet(({"seed": 1}, None), ({"seed": 1}, problem))
    assert printed[0] == "process 1: hardware.accelerator=gpu: PyTorch finds no CUDA device"


@pytest.mark.usefixtures("rendezvous_point")
def test_a_process_that_does_not_come() -> None:
    (printed,) = meet(({"seed": 1}, None), wait=5)
    assert printed.startswith("rank 1 of 2 processes did not come to 127.0.0.1:")
    assert "within hardware.rendezvous_seconds=5;" in printed


@pytest.mark.usefixtures("rendezvous_point")
def test_a_rendezvous_that_nobody_keeps() -> None:
    assert refused_rendezvous(1) == "Connection refused"


@pytest.mark.usefixtures("rendezvous_point")
@pytest.mark.parametrize(
    ("number", "tries"), [(socket.EAI_NONAME, 1), (socket.EAI_AGAIN, 3)], ids=["unknown", "no DNS"]
)
def test_a_first_node_whose_name_does_not_resolve_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, number: int, tries: int
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "node0")
    slept: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: sum(slept), sleep=slept.append)
    monkeypatch.setattr(rendezvous, "time", clock)
    monkeypatch.setattr(rendezvous, "_NAME_SECONDS", 0.3)
    asked = []

    def resolve(host: str, *_: Any, **__: Any) -> None:
        asked.append(host)
        raise socket.gaierror(number, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    hardware = HardwareConfig(accelerator="cpu", rendezvous_seconds=300)
    with pytest.raises(NotMetError) as refused:
        connect_ranks(RankInfo(1, 2, 0, 1, None, True), hardware, {}, None, CHANGED)
    assert asked == tries * ["node0"]
    (problem,) = refused.value.problems
    assert problem.startswith("process 1 of 2 cannot use the rendezvous node0:")
    assert f"(MASTER_ADDR) does not resolve on {socket.gethostname()} (no such name)" in problem


@pytest.mark.usefixtures("rendezvous_point")
@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_a_rendezvous_that_is_another_program(
    monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setattr(rendezvous, "_REPORT_SECONDS", 0.0)
    with ExitStack() as opened:
        listener = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        monkeypatch.setenv("MASTER_PORT", str(listener.getsockname()[1]))

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection = opened.enter_context(listener.accept()[0])
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        assert refused_rendezvous(1).startswith("what listens there is another program")
        # The first would keep it itself.
        assert refused_rendezvous(0) == "another program has this port"


def refused_rendezvous(rank: int) -> str:
    """Why a process cannot use its rendezvous."""
    hardware = HardwareConfig(accelerator="cpu", rendezvous_seconds=1)
    with pytest.raises(NotMetError) as refused:
        connect_ranks(RankInfo(rank, 2, rank, 2, None, True), hardware, {}, None, CHANGED)
    (problem,) = refused.value.problems
    place, _, reason = problem.partition(" (MASTER_ADDR, MASTER_PORT) within hardware.")
    assert place == (
        f"process {rank} of 2 cannot use the rendezvous 127.0.0.1:{os.environ['MASTER_PORT']}"
    )
    return reason.partition(": ")[2].partition("; give all")[0]


STOPPED = """
import os, sys, time
from vqr1.config import HardwareConfig
from vqr1.distributed.environment import RankInfo, exit_process
from vqr1.distributed.rendezvous import connect_ranks, wait_for_all_ranks

rank = int(sys.argv[1])
place = RankInfo(rank, 2, rank, 2, None, True)
connect_ranks(place, HardwareConfig(accelerator="cpu"), {}, None, lambda old, new: [])
if rank == 0:
    print("joined", flush=True)
    sys.stdin.read()  # still delivering
else:
    print("parting", flush=True)
wait_for_all_ranks(place)
exit_process(75)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("rendezvous_point")
def test_a_stopped_process_waits_for_the_first_and_is_not_ended_meanwhile() -> None:
    first, other = (
        subprocess.Popen(
            [sys.executable, "-c", STOPPED, str(rank)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    )  # fmt: skip
    for process in (first, other):
        assert process.stdout is not None
        assert process.stdout.readline()
    with pytest.raises(subprocess.TimeoutExpired):
        other.wait(1)
    # What srun sends to the rest of a step once one has ended.
    other.send_signal(signal.SIGTERM)
    first.communicate()
    assert (first.wait(120), other.wait(120)) == (75, 75)


def test_the_first_of_several_that_fail_reports_the_launcher(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    for rank in (1, 0):
        assert not report_once(RankInfo(rank, 2, rank, 2, report, True), f"by {rank}", 2)
    assert json.loads(report.read_text()) == {
        "rank": 1, "message": "by 1", "code": 2, "pruned": False,
    }  # fmt: skip
    assert report_once(RankInfo(), "alone", 2)


@pytest.mark.usefixtures("rendezvous_point")
def test_under_another_launcher_one_of_several_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    places = [RankInfo(rank, 2, rank, 2, None, True) for rank in (1, 0)]
    # The store is torchrun's, which keeps it when it starts all again.
    for attempt in ("0", "1"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", attempt)
        assert [report_once(place, "lost", 74) for place in places] == [True, False]
