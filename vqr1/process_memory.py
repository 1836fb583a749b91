"""Bounds on what a long process keeps from one batch to the next.

Training steps and a service's batches differ in size and length all the time. oneDNN keeps a
compiled primitive, with its workspace, for each shape that it has met (1,024 of them unless given
otherwise), and glibc keeps one heap for each thread (eight a core); together they let a process
grow for thousands of steps or requests. What the user has set in the environment stays.

Python frees objects that refer to each other (a plot, a dropped loader) only when its collector
looks at old objects, which it does when their number has grown by a quarter. Beside the million
objects of the libraries that a training imports, that is after hundreds of plots.
"""

from __future__ import annotations

import ctypes
import gc
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

KEPT_PRIMITIVES = 64
"""Compiled primitives that oneDNN, and PyTorch's own layer above it, keep."""

HEAPS = 2
"""Heaps of the C library."""

_M_ARENA_MAX = -8
"""`mallopt`'s number of that setting (malloc.h)."""


def bound_memory() -> None:
    """Set the bounds of oneDNN and the C library; before PyTorch computes."""
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(KEPT_PRIMITIVES))
    if platform.libc_ver()[0] == "glibc" and "MALLOC_ARENA_MAX" not in os.environ:
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, HEAPS)


@contextmanager
def collection_paused() -> Iterator[None]:
    """No garbage collection within: for imports and the loading of a model.

    They make a million objects that stay, which the collector would look at again and again: 4
    to 8 % of the time. Where it is off already it stays off.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


@contextmanager
def only_new_objects_collected() -> Iterator[None]:
    """Leave the objects of now out of garbage collection within.

    The collector then has little to look at: it comes by often, and to ask for it takes
    milliseconds. Nor does it write on memory that processes forked from this one share with it.
    """
    gc.freeze()
    # The number of old objects that the collector compares with is taken by a collection.
    gc.collect()
    try:
        yield
    finally:
        gc.unfreeze()


def collect_replaced() -> None:
    """Collect once more what was excluded within `only_new_objects_collected`; else do nothing.

    For a model that was replaced by another one: whatever of it refers to itself would stay.
    """
    if gc.get_freeze_count():
        gc.unfreeze()
        gc.collect()
        gc.freeze()
