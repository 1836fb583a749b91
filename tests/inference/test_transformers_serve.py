"""A real `transformers serve` process with the tiny policy answers as the engine here does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.images import noise_image
from tests.support.scored import results
from vqr1.errors import ModelError
from vqr1.policy.packaged import tiny_policy_folder

pytestmark = pytest.mark.slow

IMAGES = [noise_image(1, 40, 32), noise_image(2, 200, 90), noise_image(3, 61, 180)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    command = [
        str(Path(sys.executable).with_name("transformers")), "serve", str(tiny_policy_folder()),
        "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32",
    ]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (
        log.open("w") as out,
        subprocess.Popen(command, stdout=out, stderr=out, env=environment) as process,
    ):
        try:
            deadline = time.monotonic() + 240
            while not _healthy(port):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.mark.parametrize("prompt", ["thinking", "non_thinking", "describe"])
def test_the_same_greedy_answers(served: str, prompt: str) -> None:
    ask = (f"prompt={prompt}", "mode=greedy", "mode.sampling.max_new_tokens=60")
    if prompt == "describe":
        # Without an answer's end, here and there the text continues to the limit.
        ask += ("mode.sampling.stop=eos",)
    own = results(IMAGES, *ask)
    folder = tiny_policy_folder()
    theirs = results(IMAGES, *ask, "backend=transformers_serve", f"backend.url={served}",
                     f"backend.model={folder}")  # fmt: skip
    assert [r.text for r in theirs] == [r.text for r in own]
    assert theirs == own
    assert all(r.valid for r in own)


def test_samples_and_what_the_server_cannot_do(served: str) -> None:
    server = (
        "backend=transformers_serve", f"backend.url={served}",
        f"backend.model={tiny_policy_folder()}", "backend.concurrency=1",
    )  # fmt: skip
    sampled = ("mode=sampled", "mode.samples=3", "mode.sampling.max_new_tokens=60", *server)
    first = results(IMAGES, *sampled, "mode.sampling.top_k=0", "seed=3")
    assert results(IMAGES, *sampled, "mode.sampling.top_k=0", "seed=3") == first
    assert results(IMAGES, *sampled, "mode.sampling.top_k=0", "seed=4") != first
    assert any(r.std for r in first)
    # By its generation config: one token to choose from is the greedy answer, three times.
    (_, *greedy) = results(IMAGES, *sampled, "mode.sampling.top_k=1")
    assert all(r.std == 0 for r in greedy)
    with pytest.raises(ModelError, match="mode=expected: this server gives no log-probabilities"):
        results(IMAGES, *server)
