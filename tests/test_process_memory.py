"""The bounds hold where they are set after PyTorch is imported, as in the jobs of a sweep."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref

import pytest
import torch

from vqr1.process_memory import (
    KEPT_PRIMITIVES,
    collect_replaced,
    collection_paused,
    only_new_objects_collected,
)

USE = """
import ctypes, sys
import torch
from vqr1.process_memory import bound_memory

if sys.argv[1] == "bounded":
    bound_memory()

class Info(ctypes.Structure):  # mallinfo2(3)
    _fields_ = [(name, ctypes.c_size_t) for name in
                ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks",
                 "uordblks", "fordblks", "keepcost")]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
torch.set_num_threads(1)
weight = torch.randn(256, 256)
counts = []
for rows in range(1, 513):
    torch.ops.mkldnn._linear_pointwise(torch.randn(rows, 256), weight, None, "none", [], "")
    if rows in (int(sys.argv[2]), 512):
        counts.append(libc.mallinfo2().uordblks)
print(counts[1] - counts[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")
@pytest.mark.skipif(sys.platform != "linux", reason="reads glibc's counts")
def test_new_shapes_take_no_more_memory_once_the_cache_is_full() -> None:
    names = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    environment = {key: value for key, value in os.environ.items() if key not in names}

    def growth(kind: str) -> int:
        """Bytes in use that the shapes beyond twice the cache's size have added."""
        command = [sys.executable, "-c", USE, kind, str(2 * KEPT_PRIMITIVES)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return int(done.stdout)

    free, bounded = growth("free"), growth("bounded")
    assert bounded < free / 10, (bounded, free)


class Cycle:
    """Something that refers to itself, as parts of a model do."""

    def __init__(self) -> None:
        self.own = self


def test_what_was_replaced_is_collected_though_it_was_excluded() -> None:
    replaced = Cycle()
    seen = weakref.ref(replaced)
    with only_new_objects_collected():
        del replaced
        gc.collect()
        assert seen() is not None
        collect_replaced()
        assert seen() is None
        assert gc.get_freeze_count() > 0
    collect_replaced()
    assert gc.get_freeze_count() == 0


def test_collection_is_paused_and_left_as_it_was() -> None:
    assert gc.isenabled()
    with collection_paused():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with collection_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
