"""What the processes of one run tell each other in a step: small tables, counts and gradients.

Every function is the identity in a run of one process, so that the step has one form. Images are
compared over all processes: each sends its scores and opinion scores ([B, M] numbers, never texts
or logits), and computes all rewards itself. Gradients are added up once behind the last
micro-batch, and not by a data-parallel wrapper during the backward passes: ranks may have different
numbers of micro-batches, or none when no group of theirs carries a signal, and the loss is already
a sum with the denominators of the whole pool.

Shape legend: B rows of this process, G rows of all processes.

Not here: sharded weights.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from vqr1.errors import DataError

BUCKET_NUMBERS = 2**25
"""Numbers of a gradient that travel together: 128 MiB in float32."""


def world_size() -> int:
    """Number of processes of this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def own_rank() -> int:
    """Number of this process among those of the run."""
    return dist.get_rank() if world_size() > 1 else 0


def gather_rows(rows: Tensor) -> list[Tensor]:
    """The rows of every process, by rank.

    Args:
        rows: [B, M]; B may differ between processes, M may not.
    """
    if world_size() == 1:
        return [rows]
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.empty_like(count) for _ in range(world_size())]
    dist.all_gather(counts, count)
    sizes = [int(size) for size in counts]
    padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return [part[:size] for part, size in zip(parts, sizes, strict=True)]


def total_over_ranks(values: Tensor) -> Tensor:
    """The sum over all processes, element by element; the same in each of them."""
    if world_size() == 1:
        return values
    summed = values.clone()
    dist.all_reduce(summed)
    return summed


def add_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Adds up every parameter's gradient over all processes, in place.

    A parameter without a gradient in some processes counts as zero there; one without in all of
    them stays without, so that the optimiser passes it over.

    Args:
        parameters: the trained parameters, the same in every process.
    """
    if world_size() == 1:
        return
    device = parameters[0].device
    used = torch.tensor([p.grad is not None for p in parameters], device=device).to(torch.uint8)
    dist.all_reduce(used, op=dist.ReduceOp.MAX)
    present = [p for p, any_rank in zip(parameters, used.tolist(), strict=True) if any_rank]
    for parameter in present:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for bucket in _buckets([p.grad for p in present if p.grad is not None]):
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


def label_number(text: str) -> int:
    """A number of 24 bits that tells texts apart and that float32 holds exactly."""
    return zlib.crc32(text.encode()) & 0xFFFFFF


def check_one_dataset(numbers: Tensor, name: str) -> None:
    """Check that all rows of a pool are of one data set.

    Args:
        numbers: [G] `label_number` of each row's data set.
        name: the data set of this process's rows.

    Raises:
        DataError: another process ranks images of another set.
    """
    strangers = int((numbers != label_number(name)).sum())
    if strangers:
        raise DataError(
            f"dataset: {strangers} of the {len(numbers)} images of this step are not of {name} but "
            "of another set; every process must read the same sets with the same seed"
        )
