"""Bounds on what libraries keep from one batch to the next; to be set before PyTorch computes.

Training steps and a service's batches differ in size and length all the time. oneDNN keeps a
compiled primitive, with its workspace, for each shape that it has met (1,024 of them unless told
otherwise), and glibc keeps one heap for each thread (eight a core); together they let a process
grow for thousands of steps or requests. What the user has set in the environment stays.
"""

from __future__ import annotations

import ctypes
import os
import platform

KEPT_PRIMITIVES = 64
"""Compiled primitives that oneDNN, and PyTorch's own layer above it, keep."""

HEAPS = 2
"""Heaps of the C library."""

_M_ARENA_MAX = -8
"""`mallopt`'s number of that setting (malloc.h)."""


def bound_memory() -> None:
    """Set the bounds for this process."""
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(KEPT_PRIMITIVES))
    if platform.libc_ver()[0] == "glibc" and "MALLOC_ARENA_MAX" not in os.environ:
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, HEAPS)
