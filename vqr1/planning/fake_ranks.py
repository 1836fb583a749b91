"""Ranks that are not there: this process is one of several, whose exchanges carry nothing.

PyTorch's fake process group answers on the host, where every other rank sends what this one sends;
here are the exchanges of tensors of the device (`fake_device.py`), which take its memory.

Not here: how weights are sharded (`vqr1.distributed.sharding`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch._C._distributed_c10d import FakeWork
from torch.testing._internal.distributed.fake_pg import FakeStore

from vqr1.planning.fake_tensor import NAME, leaves


@contextmanager
def fake_ranks(count: int) -> Iterator[None]:
    """Inside the block this process is rank 0 of so many; of one, nothing is connected."""
    if count == 1:
        yield
        return
    devices = dist.Backend.backend_capability[dist.Backend.FAKE]
    if NAME not in devices:
        devices.append(NAME)
    dist.init_process_group(f"cpu:fake,{NAME}:fake", rank=0, world_size=count, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def exchanged(func: Any, name: str, args: Any) -> Any:
    """What an exchange returns. What all ranks gather is known where what this one sends is."""
    if func.namespace == "c10d":
        if name == "allgather_":
            (sent,) = args[1]
            for out in leaves(args[0]):
                out.value = None if sent.value is None else sent.value.clone()
        return args[0], FakeWork().boxed()
    if name in ("wait_tensor", "_wrap_tensor_autograd"):
        return args[0]
    if name == "all_reduce":
        return args[0].clone()
    assert name == "all_gather_into_tensor", name
    rows, ranks, _ = args
    return rows.new_empty((len(rows) * ranks, *rows.shape[1:]))
