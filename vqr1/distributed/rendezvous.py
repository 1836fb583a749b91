"""How the ranks of one run find each other, which of them reports an error, and how they exit.

All connect to a store, compare their configurations there, and only then make the process group:
what is missing or different is reported once, within `hardware.rendezvous_seconds`.

Not here: this process's rank (`environment.py`), and later exchanges (`collectives.py`).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import torch
import torch.distributed as dist

from vqr1.config import HardwareConfig
from vqr1.distributed.environment import RankInfo
from vqr1.distributed.stop_requests import SIGNALS
from vqr1.errors import ConfigError, NotMetError, RunFaultError, first_line

ChangedKeys = Callable[[Mapping[str, Any], Mapping[str, Any]], list[str]]

PARTING_SECONDS = 30.0
"""How long a stopped process waits for the others: the first may have to deliver its log."""
_AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"
"""Variable of torchrun: it keeps the rendezvous itself."""
_RETRY_SECONDS = 0.2
_NO_STORE = "what listens there is another program, or a proxy, and no rendezvous"
_NAME_SECONDS = 5.0
"""How long a name that cannot be asked about for the moment is asked about again."""
_REPORT_SECONDS = 5.0
"""How long a process that has something to report looks for the rendezvous."""


def connect_ranks(
    info: RankInfo,
    hardware: HardwareConfig,
    values: Mapping[str, Any],
    problem: ConfigError | None,
    changed_keys: ChangedKeys,
) -> None:
    """Find the other ranks and make the process group; alone, only a problem is raised.

    Args:
        info: rank information of this process.
        hardware: time limits and device type.
        values: the composed configuration, compared with that of rank 0.
        problem: what this process found wrong on its own machine.
        changed_keys: the differences of two configurations that change results, one line each.

    Raises:
        ConfigError: a problem here or on another rank, a rank that did not come, or one that has
            another configuration.
        NotMetError: this process cannot use the rendezvous address.
    """
    if problem is not None and info.rank == 0:
        raise problem
    if info.world_size == 1:
        # The jobs of a sweep may run one after the other in one process.
        if hardware.strategy != "auto" and not dist.is_initialized():
            _connect(hardware, dist.HashStore(), info)
        return
    wait = timedelta(seconds=hardware.rendezvous_seconds)
    store = _meet(info, wait)
    word = {"problem": str(problem)} if problem is not None else {"values": values}
    store.set(_came(info.rank), json.dumps(word))
    _wait_for_all(store, info, wait)
    words = [json.loads(store.get(_came(rank))) for rank in range(info.world_size)]
    problems = _differences(words, changed_keys)
    if problems:
        with suppress(dist.DistError, RuntimeError):
            _part(store, info)
        raise ConfigError(problems)
    _connect(hardware, dist.PrefixStore("group", store), info)
    if info.report is not None:
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _connect(hardware: HardwareConfig, store: dist.Store, info: RankInfo) -> None:
    # Objects and flags travel between hosts, tensors of a GPU between GPUs.
    backend = "gloo" if hardware.accelerator == "cpu" else "cpu:gloo,cuda:nccl"
    if hardware.accelerator == "gpu":
        torch.cuda.set_device(info.local_rank)
    dist.init_process_group(
        backend,
        store=store,
        rank=info.rank,
        world_size=info.world_size,
        timeout=timedelta(minutes=hardware.process_group_timeout_minutes),
    )


def _end_with(launcher: int) -> None:
    """Ask this process to save and stop when our own launcher was killed."""
    while os.getppid() == launcher:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)


def _meet(info: RankInfo, wait: timedelta) -> dist.Store:
    keeps = _keeps_store(info)
    try:
        store = _kept_store(wait) if keeps else _found_store(wait)
    except socket.gaierror as error:
        raise NotMetError(
            [
                f"process {info.rank} of {info.world_size} cannot use the rendezvous {_address()}: "
                f"the first node's name (MASTER_ADDR) does not resolve on {socket.gethostname()} "
                f"({error.strerror}); make it known to this node (its hosts file or DNS), or set "
                "MASTER_ADDR to an address of the first node before the processes are started"
            ]
        ) from error
    except (dist.DistError, RuntimeError, ValueError, OSError) as error:
        raise NotMetError(
            [
                f"process {info.rank} of {info.world_size} cannot use the rendezvous "
                f"{_address()} (MASTER_ADDR, MASTER_PORT) within hardware.rendezvous_seconds="
                f"{wait.total_seconds():g}: {_reason(error)}; give all processes an address of the "
                "first node and a port that is free there, and see what process 0 printed"
            ]
        ) from error
    return _of_this_attempt(store)


def _of_this_attempt(store: dist.Store) -> dist.Store:
    # After a restart by torchrun the words of the first attempt are still there.
    return dist.PrefixStore(f"vqr1/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _kept_store(wait: timedelta) -> dist.Store:
    # By its own address: whether the others' leads here is for them to find out.
    return dist.TCPStore(
        "localhost",
        int(os.environ["MASTER_PORT"]),
        is_master=True,
        timeout=wait,
        wait_for_workers=False,
        multi_tenant=True,
    )


def _keeps_store(info: RankInfo) -> bool:
    """Whether the rendezvous is this process's own: rank 0's, unless torchrun keeps it."""
    return info.rank == 0 and os.environ.get(_AGENT_STORE) != "True"


def _found_store(wait: timedelta) -> dist.Store:
    """The rendezvous that another process keeps.

    Raises:
        OSError: nobody listens there, or who does sends nothing.
        RuntimeError: who listens there is no rendezvous.
    """
    _wait_for_listener(wait)
    answers: SimpleQueue[dist.Store | Exception] = SimpleQueue()

    def ask() -> None:
        try:
            store = dist.TCPStore(
                os.environ["MASTER_ADDR"],
                int(os.environ["MASTER_PORT"]),
                is_master=False,
                timeout=wait,
                wait_for_workers=False,
            )
        except (dist.DistError, RuntimeError, ValueError) as error:
            answers.put(error)
        else:
            answers.put(store)

    # PyTorch waits without end for the answer of another program that is silent.
    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=wait.total_seconds() + _REPORT_SECONDS)
    except Empty:
        raise TimeoutError(_NO_STORE) from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _wait_for_listener(wait: timedelta) -> None:
    """Wait until somebody listens at the rendezvous; PyTorch's own wait prints its stack.

    Raises:
        OSError: nobody does in time, or the host's name does not resolve, which no wait changes.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    begun = time.monotonic()
    deadline = begun + wait.total_seconds()
    while True:
        left = max(deadline - time.monotonic(), _RETRY_SECONDS)
        try:
            socket.create_connection((host, port), timeout=left).close()
        except OSError as error:
            unknown = isinstance(error, socket.gaierror) and (
                error.errno != socket.EAI_AGAIN or time.monotonic() - begun > _NAME_SECONDS
            )
            if unknown or time.monotonic() + _RETRY_SECONDS > deadline:
                raise
        else:
            return
        time.sleep(_RETRY_SECONDS)


def _reason(error: Exception) -> str:
    text = first_line(error, 200)
    if "Ping failed" in text:
        return _NO_STORE
    if "EADDRINUSE" in text:
        return "another program has this port"
    return (isinstance(error, OSError) and error.strerror) or text


def _address() -> str:
    return f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"


def _wait_for_all(store: dist.Store, info: RankInfo, wait: timedelta) -> None:
    keys = [_came(rank) for rank in range(info.world_size)]
    try:
        store.wait(keys, wait)
    except (dist.DistError, RuntimeError) as error:
        try:
            missing = [str(r) for r, key in enumerate(keys) if not store.check([key])]
        except (dist.DistError, RuntimeError):
            missing = ["0"]  # rank 0 keeps the store, and is gone
        raise ConfigError(
            [
                f"rank {', '.join(missing)} of {info.world_size} processes did not come to "
                f"{_address()} within "
                f"hardware.rendezvous_seconds={wait.total_seconds():g}; see what it printed, and "
                "whether all nodes were given this address and the same number of processes"
            ]
        ) from error


def _differences(words: list[dict[str, Any]], changed_keys: ChangedKeys) -> list[str]:
    problems = [
        f"process {rank}: {line}"
        for rank, word in enumerate(words)
        for line in word.get("problem", "").splitlines()
    ]
    if problems:
        return problems
    for rank, word in enumerate(words[1:], 1):
        # Nodes may keep copies of their own; that the data agree is checked once they are read.
        changes = changed_keys(words[0]["values"], word["values"])
        if changes:
            return [
                f"process {rank} has another configuration than process 0 (0 -> {rank}):",
                *(f"  {change}" for change in changes),
                "start all with the same command",
            ]
    return []


def report_once(info: RankInfo, message: str, code: int, pruned: bool = False) -> bool:
    """Whether this process prints why the run ends: exactly one of those that could does.

    Args:
        info: this process's. Our own launcher is given the message and prints it.
        message: why.
        code: exit code.
        pruned: a search gave the run up.
    """
    if info.report is not None:
        word = {"rank": info.rank, "message": message, "code": code, "pruned": pruned}
        _notify_launcher(info.report, word)
        return False
    if info.world_size == 1:
        return True
    # Without torchrun rank 0 keeps the rendezvous itself: it is there or will not be.
    wait = timedelta(seconds=_RETRY_SECONDS if _keeps_store(info) else _REPORT_SECONDS)
    try:
        return int(_of_this_attempt(_found_store(wait)).add("reported", 1)) == 1
    except (dist.DistError, RuntimeError, OSError):
        # No rendezvous (any more): all have found the same, or the first has been lost.
        return info.rank == 0 or code == RunFaultError.exit_code


def wait_for_all_ranks(info: RankInfo) -> None:
    """Wait until all processes of a stopped run have nothing left to do, for a bounded time.

    srun and torchrun end the others when one ends with a code that is not 0. A process that was
    still delivering its log would lose it, and its end by a signal would hide the code that asks
    for another turn. Hence stop signals count no more from here on.

    Args:
        info: this process's.
    """
    if not dist.is_initialized():
        return
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    try:
        store = _of_this_attempt(_found_store(timedelta(seconds=_REPORT_SECONDS)))
        _part(store, info)
    except (dist.DistError, RuntimeError, OSError):
        return  # one does not come, or the first, which may keep the store, has left


def _part(store: dist.Store, info: RankInfo) -> None:
    """Wait until all have come to an end: the first may keep the store that others still read.

    Raises:
        RuntimeError: one does not come, or the store is gone.
    """
    store.set(_done(info.rank), "")
    everyone = [_done(rank) for rank in range(info.world_size)]
    store.wait(everyone, timedelta(seconds=PARTING_SECONDS))


def _notify_launcher(report: Path, word: dict[str, Any]) -> None:
    try:
        descriptor = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError:
        return  # another one was first, or the launcher is gone
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(word, file)


def _came(rank: int) -> str:
    return f"came/{rank}"


def _done(rank: int) -> str:
    return f"done/{rank}"
