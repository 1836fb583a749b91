"""Several processes that share one scoring: those of torchrun or srun, or processes started here.

Each rank answers the batches that it is dealt (`resume.shares`) and commits them to a file of its
own; rank 0 merges.

Not here: how ranks find each other (`vqr1.distributed.rendezvous`), and what is resumed and merged
(`resume.py`).
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch.multiprocessing as mp

from vqr1.config import HardwareConfig
from vqr1.distributed.collectives import raise_on_all_ranks
from vqr1.distributed.environment import RankInfo
from vqr1.distributed.parents import end_with_parent, how_it_ended
from vqr1.distributed.rendezvous import ChangedKeys, connect_ranks
from vqr1.errors import RunFaultError, UserError
from vqr1.inference.resume import shares
from vqr1.progress import progress_bar
from vqr1.standard_streams import guard_output

Progress = Callable[[int], None]

Task = Callable[[RankInfo, list[int], Progress], None]
"""Answers some batches, given by number, as one rank, and reports how many images are done."""

LONGEST_SHARE_MINUTES = 7 * 24 * 60.0
"""A rank's share may take days longer than that of another one."""


def connect_to_share(
    info: RankInfo, hardware: HardwareConfig, values: Mapping[str, Any], changed_keys: ChangedKeys
) -> None:
    """Find the other ranks of torchrun or srun; does nothing alone.

    Args:
        info: rank information of this process.
        hardware: time limits and device type.
        values: the composed configuration, compared with that of rank 0.
        changed_keys: the differences of two configurations that change results.

    Raises:
        ConfigError: a rank did not come, or has another configuration.
    """
    if info.world_size > 1:
        patient = replace(hardware, process_group_timeout_minutes=LONGEST_SHARE_MINUTES)
        connect_ranks(info, patient, values, None, changed_keys)


def share_work(
    here: Task,
    started: Task,
    left: Sequence[int],
    sizes: Sequence[int],
    info: RankInfo,
    devices: int,
    *,
    label: str,
    resume_with: str,
) -> None:
    """Answer batches by all ranks of a launcher, or by processes that are started here.

    Returns once every rank has answered its share, or raises what one of them met.

    Args:
        here: answers a share in this process.
        started: the same in a process that is started; picklable.
        left: numbers of the batches.
        sizes: images, or whatever is counted, of every batch.
        info: rank information of this process.
        devices: processes where no launcher has started any.
        label: of the progress bar.
        resume_with: how the user continues after a process has died.
    """
    processes = info.world_size if info.world_size > 1 else devices
    dealt = shares(left, processes)
    share = dealt[info.rank] if info.world_size > 1 else list(left)
    total = sum(sizes[number] for number in share)
    with progress_bar(label, total, shown=info.rank == 0 and total > 0) as advance:
        if processes > 1 and info.world_size == 1:
            run_in_processes(started, dealt, advance, resume_with)
        else:
            raise_on_all_ranks(lambda: here(info, share, advance))


def run_in_processes(
    task: Task, dealt: Sequence[Sequence[int]], on_progress: Progress, resume_with: str
) -> None:
    """Start one process a share and wait for all of them.

    Args:
        task: what each of them does; picklable.
        dealt: batch numbers of each process.
        on_progress: gets numbers of finished images.
        resume_with: how the user continues after a process has died.

    Raises:
        UserError: what a process reported as the user's mistake.
        RunFaultError: a process ended early; what it committed is kept.
    """
    context = mp.get_context("spawn")
    messages: Any = context.Queue()
    processes = [
        context.Process(target=_child, args=(task, list(share), rank, len(dealt), messages))
        for rank, share in enumerate(dealt)
        if share
    ]
    for process in processes:
        process.start()
    running = len(processes)
    try:
        while running:
            kind, value = _next_message(messages, processes, resume_with)
            if kind == "images":
                on_progress(value)
            elif kind == "done":
                running -= 1
            elif kind == "error":
                raise UserError(value)
    finally:
        for process in processes:
            if running:
                process.terminate()
            process.join()


def _next_message(messages: Any, processes: Sequence[Any], resume_with: str) -> tuple[str, Any]:
    while True:
        try:
            message: tuple[str, Any] = messages.get(timeout=1.0)
            return message
        except queue.Empty:
            for rank, process in enumerate(processes):
                code = process.exitcode
                if code not in (None, 0):
                    raise RunFaultError(
                        f"process {rank} of {len(processes)} {how_it_ended(code)}; what was "
                        f"evaluated is kept: {resume_with}"
                    ) from None


def _child(task: Task, numbers: list[int], rank: int, ranks: int, messages: Any) -> None:
    def advance(count: int) -> None:
        messages.put(("images", count))

    end_with_parent()
    guard_output()
    try:
        task(RankInfo(rank, ranks, rank, ranks), numbers, advance)
    except UserError as error:
        messages.put(("error", str(error)))
        return
    messages.put(("done", rank))
