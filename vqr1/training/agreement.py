"""How the processes of one run agree: on a value, on a fault, on a moment.

Every function is called by all processes at the same point and returns, or raises, the same in each
of them: a process that fails alone leaves the others waiting in their next exchange. In a run of
one process each is the identity.

Not here: the numbers of a step (`ranks.py`), and how processes find each other (`processes.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from vqr1.errors import UserError
from vqr1.training.ranks import own_rank, world_size

T = TypeVar("T")

Kinds = tuple[type[Exception], ...]


def from_first(produce: Callable[[], T], kinds: Kinds = (UserError,)) -> T:
    """The first process's value in every process.

    Args:
        produce: called in the first process only; its value has to be picklable.
        kinds: errors of it that all processes raise.

    Raises:
        Exception: one of `kinds`.
    """
    if world_size() == 1:
        return produce()
    box: list[Any] = [None, None]
    value: Any = None
    if own_rank() == 0:
        try:
            value = produce()
            box = [None, value]
        except kinds as error:
            box = [error, None]
    dist.broadcast_object_list(box, src=0)
    if box[0] is not None:
        raise box[0]
    # The first process keeps its own object and not the copy that went on the way.
    return value if own_rank() == 0 else box[1]


def together(produce: Callable[[], T], kinds: Kinds = (UserError,)) -> T:
    """Each process's own value; an error of one is raised by all.

    Args:
        produce: called in every process.
        kinds: errors of it that are passed on.

    Raises:
        Exception: one of `kinds`, that of the lowest rank that met any.
    """
    if world_size() == 1:
        return produce()
    value: Any = None
    failed: Exception | None = None
    try:
        value = produce()
    except kinds as error:
        failed = error
    errors: list[Any] = [None] * world_size()
    dist.all_gather_object(errors, failed)
    for met in errors:
        if met is not None:
            raise met
    return value


def gathered(value: T) -> list[T]:
    """Every process's value by rank, in every process; picklable and small."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def gathered_in_first(value: T) -> list[T] | None:
    """Every process's value by rank in the first process; None in the others."""
    if world_size() == 1:
        return [value]
    values: list[Any] | None = [None] * world_size() if own_rank() == 0 else None
    dist.gather_object(value, values, dst=0)
    return values


def largest(number: int) -> int:
    """The largest of the processes' numbers."""
    if world_size() == 1:
        return number
    box = torch.tensor([number])
    dist.all_reduce(box, op=dist.ReduceOp.MAX)
    return int(box)


def smallest(number: int) -> int:
    """The smallest of the processes' numbers."""
    return -largest(-number)
