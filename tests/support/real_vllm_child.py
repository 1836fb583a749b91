"""vLLM's own server, with the other end of `vllm_transport.py` where it would use NCCL.

Run it as `python -m tests.support.real_vllm_child ARGUMENTS`. Its engine is a process that may be
spawned: the stand-ins are put in place by importing this module.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch.distributed import TCPStore
from vllm.distributed.weight_transfer import nccl_engine

STORE_SECONDS = 60


class _Group:
    """What the engine holds in place of a communicator."""

    def __init__(self, info: Any, parallel: Any) -> None:
        self.store = TCPStore(
            info.master_address, info.master_port, is_master=False,
            timeout=timedelta(seconds=STORE_SECONDS),
        )  # fmt: skip
        self.updates = 0


def _take(
    iterator: Iterator[tuple[str, tuple[list[int], torch.dtype]]],
    group: _Group,
    src: int,
    post_unpack_func: Callable[[list[tuple[str, torch.Tensor]]], Any],
    **buffers: Any,
) -> None:
    assert src == 0
    for number, (name, (shape, dtype)) in enumerate(iterator):
        key = f"{group.updates}/{number}"
        raw = np.frombuffer(group.store.get(key), dtype=np.uint8).copy()
        group.store.delete_key(key)
        post_unpack_func([(name, torch.from_numpy(raw).view(dtype).view(shape))])
    group.updates += 1


nccl_engine.worker_init_process_group = _Group
nccl_engine.packed_nccl_broadcast_consumer = _take

if __name__ == "__main__":
    # The command `vllm` asks for a distribution of its own name: that for CPUs has another.
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
