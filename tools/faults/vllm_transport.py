"""What stands in for vLLM and NCCL on a machine without a GPU, and how a server process is run.

TRL's client stays as it is but for three things: it believes that vLLM is installed, joins the
group for weights through a store of PyTorch, and puts the weights into that store.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import torch
from torch.distributed import TCPStore

ROOT = Path(__file__).parents[2]
START_SECONDS = 600
ANSWER_SECONDS = 60


def install() -> None:
    """Put the stand-ins into TRL's module, in this process."""
    from trl.generation import vllm_client

    client: Any = vllm_client
    client.is_vllm_available = lambda *unused, **also: True
    client.get_ip = lambda: "127.0.0.1"
    client._HAS_STATEFUL_TRAINER_ENGINE = True
    client._HAS_RESET_PREFIX_CACHE_SUCCESS = True
    client.packed_nccl_broadcast_producer = _put
    client.VLLMClient.init_communicator = _join
    client.VLLMClient.close_communicator = _leave


def _join(self: Any, device: Any = 0) -> None:
    world_size = self.get_world_size() + 1
    # As vLLM does it: at the group's port, which one process at a time can listen at.
    store = TCPStore("127.0.0.1", self.group_port, is_master=True, wait_for_workers=False)
    info = {"master_address": "127.0.0.1", "master_port": store.port}
    body = {"init_info": {**info, "rank_offset": 1, "world_size": world_size, "packed": True}}
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(self._post, f"{self.base_url}/init_weight_transfer_engine", json=body)
        asked.result()
    self.communicator = _Group(store)


def _leave(self: Any) -> None:
    if self.communicator is not None:
        self.communicator.store = None  # lets the port go, as there
    self.communicator = None


@dataclass
class _Group:
    store: TCPStore | None
    updates: int = 0


def _put(iterator: Any, group: _Group, src: int, post_iter_func: Any) -> None:
    assert src == 0
    assert group.store is not None
    for number, item in enumerate(iterator):
        # A copy: memory that NumPy has seen cannot be let go by who divides the weights again.
        raw = post_iter_func(item).detach().cpu().clone().view(-1).view(torch.uint8)
        group.store.set(f"{group.updates}/{number}", raw.numpy().tobytes())
    group.updates += 1


@dataclass
class RunningServer:
    """A server process."""

    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, wait: bool = True) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tools.faults.vllm_server", str(self.port)],
            cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        end = time.monotonic() + START_SECONDS
        while wait:
            try:
                requests.get(f"{self.url}/health", timeout=ANSWER_SECONDS)
                return
            except requests.RequestException:
                assert self.process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.1)

    def set(self, **options: Any) -> None:
        """Make it differ from a server that serves well; counts begin anew."""
        requests.post(
            f"{self.url}/options", json=options, timeout=ANSWER_SECONDS
        ).raise_for_status()

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def counts(self) -> dict[str, int]:
        found: dict[str, int] = requests.get(f"{self.url}/counts", timeout=ANSWER_SECONDS).json()
        return found


@contextmanager
def vllm_server() -> Iterator[RunningServer]:
    """A running server; killed where it still lives when the block ends."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    server = RunningServer(port)
    server.start()
    try:
        yield server
    finally:
        server.kill()
