"""Exchanges between the ranks of one run: Python objects, errors, counts, score tables, gradients.

Every function is called by all ranks at the same point and returns, or raises, the same on each of
them: a rank that fails alone leaves the others waiting in their next exchange. In a run of one
process each is the identity, so that the ranking step has one form.

Images are compared over all ranks: each sends its scores and MOS ([B, M] numbers, never texts or
logits), and computes all rewards itself. Gradients are summed once after the last micro-batch, and
not by a data-parallel wrapper during the backward passes: ranks may have different numbers of
micro-batches, or none where all of their groups have zero variance, and the loss is already a sum
with the denominators of the whole pool.

Shape legend: B rows of this rank, G rows of all ranks.

Not here: sharded weights (`sharding.py`), and how the ranks find each other (`rendezvous.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from vqr1.errors import UserError

T = TypeVar("T")

Kinds = tuple[type[Exception], ...]

BUCKET_NUMBERS = 2**25
"""Numbers of a gradient that travel together: 128 MiB in float32."""


def get_world_size() -> int:
    """Number of processes of this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def get_rank() -> int:
    """Number of this process among those of the run."""
    return dist.get_rank() if get_world_size() > 1 else 0


def broadcast_from_rank0(produce: Callable[[], T], kinds: Kinds = (UserError,)) -> T:
    """Rank 0's value in every process.

    Args:
        produce: called on rank 0 only; its value has to be picklable.
        kinds: errors of it that all processes raise.

    Raises:
        Exception: one of `kinds`.
    """
    if get_world_size() == 1:
        return produce()
    box: list[Any] = [None, None]
    value: Any = None
    if get_rank() == 0:
        try:
            value = produce()
            box = [None, value]
        except kinds as error:
            box = [error, None]
    dist.broadcast_object_list(box, src=0)
    if box[0] is not None:
        raise box[0]
    # Rank 0 keeps its own object and not the copy that was sent.
    return value if get_rank() == 0 else box[1]


def raise_on_all_ranks(produce: Callable[[], T], kinds: Kinds = (UserError,)) -> T:
    """Each process's own value; an error of one is raised by all.

    Args:
        produce: called in every process.
        kinds: errors of it that are passed on.

    Raises:
        Exception: one of `kinds`, that of the lowest rank that met any.
    """
    if get_world_size() == 1:
        return produce()
    value: Any = None
    failed: Exception | None = None
    try:
        value = produce()
    except kinds as error:
        failed = error
    errors: list[Any] = [None] * get_world_size()
    dist.all_gather_object(errors, failed)
    for met in errors:
        if met is not None:
            raise met
    return value


def all_gather_objects(value: T) -> list[T]:
    """Every process's value by rank, in every process; picklable and small."""
    if get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * get_world_size()
    dist.all_gather_object(values, value)
    return values


def gather_objects_to_rank0(value: T) -> list[T] | None:
    """Every process's value by rank on rank 0; None in the others."""
    if get_world_size() == 1:
        return [value]
    values: list[Any] | None = [None] * get_world_size() if get_rank() == 0 else None
    dist.gather_object(value, values, dst=0)
    return values


def all_reduce_max(number: int) -> int:
    """The largest of the processes' numbers."""
    if get_world_size() == 1:
        return number
    box = torch.tensor([number])
    dist.all_reduce(box, op=dist.ReduceOp.MAX)
    return int(box)


def all_reduce_min(number: int) -> int:
    """The smallest of the processes' numbers."""
    return -all_reduce_max(-number)


def all_gather_rows(rows: Tensor) -> list[Tensor]:
    """The rows of every process, by rank.

    Args:
        rows: [B, M]; B may differ between processes, M may not.
    """
    if get_world_size() == 1:
        return [rows]
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.empty_like(count) for _ in range(get_world_size())]
    dist.all_gather(counts, count)
    sizes: list[int] = torch.cat(counts).tolist()
    padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return [part[:size] for part, size in zip(parts, sizes, strict=True)]


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum over all processes, element by element; the same in each of them."""
    if get_world_size() == 1:
        return values
    summed = values.clone()
    dist.all_reduce(summed)
    return summed


def all_reduce_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Adds up every parameter's gradient over all processes, in place.

    A parameter without a gradient in some processes counts as zero there; one without in all of
    them stays without, so that the optimiser passes it over.

    Args:
        parameters: the trained parameters, the same in every process.
    """
    if get_world_size() == 1:
        return
    device = parameters[0].device
    used = torch.tensor([p.grad is not None for p in parameters], device=device).to(torch.uint8)
    dist.all_reduce(used, op=dist.ReduceOp.MAX)
    present = [p for p, any_rank in zip(parameters, used.tolist(), strict=True) if any_rank]
    for parameter in present:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for bucket in _buckets([p.grad for p in present if p.grad is not None]):
        if len(bucket) == 1 and bucket[0].is_contiguous():
            # An embedding's gradient has gigabytes: not copied there and back.
            dist.all_reduce(bucket[0])
            continue
        flat = torch.cat([grad.reshape(-1) for grad in bucket])
        dist.all_reduce(flat)
        for grad, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            grad.copy_(part.view_as(grad))


def _buckets(grads: Iterable[Tensor]) -> list[list[Tensor]]:
    """Runs of gradients of one type that travel together."""
    buckets: list[list[Tensor]] = []
    size = BUCKET_NUMBERS
    for grad in grads:
        if size + grad.numel() > BUCKET_NUMBERS or buckets[-1][0].dtype != grad.dtype:
            buckets.append([])
            size = 0
        buckets[-1].append(grad)
        size += grad.numel()
    return buckets
