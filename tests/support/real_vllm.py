"""A process of vLLM itself that serves a checkpoint."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest
import requests

START_SECONDS = 600

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="no vLLM here: make test-vllm"
)


@contextmanager
def served(command: Sequence[str], **environment: str) -> Iterator[str]:
    """The address of a vLLM server in float32.

    Args:
        command: starts it and names the checkpoint; the rest of docs/rollout_engines.md is added.
        environment: further variables of its process.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32",
         "--logprobs-mode", "raw_logprobs", "--max-model-len", "1024",
         "--weight-transfer-config", '{"backend": "nccl"}',
         "--mm-processor-kwargs", '{"do_resize": false, "max_pixels": 12544}',
         "--limit-mm-per-prompt", '{"image": 2}'],
        env={**os.environ, "VLLM_SERVER_DEV_MODE": "1", **environment},
    )  # fmt: skip
    end = time.monotonic() + START_SECONDS
    try:
        while True:
            with suppress(requests.RequestException):
                if requests.get(f"{url}/health", timeout=5).ok:
                    break
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
