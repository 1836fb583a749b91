"""The server engine against vLLM itself: two GPUs, one for the server and one for the policy."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import torch

from tests.support.pictures import SENTENCE, noise_picture
from vqr1.config import ModelConfig, RolloutServerConfig, SamplingConfig
from vqr1.data.prompts import PromptBuilder
from vqr1.policy.export import export_checkpoint
from vqr1.policy.loading import load_policy
from vqr1.policy.shared_prompt import response_logprobs
from vqr1.rollout.vllm_link import VllmLink
from vqr1.rollout.vllm_server import VllmServerEngine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no two GPUs"),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="no vLLM"),
]

MODEL = ModelConfig(name="tiny", path=None, min_pixels=56 * 56, max_pixels=112 * 112)
SAMPLING = SamplingConfig(top_k=50, max_new_tokens=32, stop="answer")


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    folder = export_checkpoint(load_policy(MODEL), tmp_path / "checkpoint")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    sizes = {"min_pixels": MODEL.min_pixels, "max_pixels": MODEL.max_pixels}
    process = subprocess.Popen(
        ["vllm", "serve", str(folder), "--host", "127.0.0.1", "--port", str(port),
         "--dtype", "float32", "--logprobs-mode", "raw_logprobs", "--max-model-len", "1024",
         "--weight-transfer-config", json.dumps({"backend": "nccl"}),
         "--mm-processor-kwargs", json.dumps(sizes), "--limit-mm-per-prompt", '{"image": 1}'],
        env={**os.environ, "VLLM_SERVER_DEV_MODE": "1", "CUDA_VISIBLE_DEVICES": "1"},
    )  # fmt: skip
    end = time.monotonic() + 600
    try:
        while True:
            try:
                if requests.get(f"http://127.0.0.1:{port}/health", timeout=5).ok:
                    break
            except requests.ConnectionError:
                assert process.poll() is None
                assert time.monotonic() < end
            time.sleep(1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def test_responses_follow_the_weights(url: str) -> None:
    policy = load_policy(MODEL, device="cuda:0")
    builder = PromptBuilder(policy.processor, SENTENCE, MODEL.min_pixels, MODEL.max_pixels)
    prompts = builder([noise_picture(seed, 84, 56) for seed in range(4)]).to("cuda:0")
    config = RolloutServerConfig(url=url)
    link = VllmLink(config, SAMPLING, torch.device("cuda:0"), True, Path())
    engine = VllmServerEngine(
        policy.model, policy.processor, SENTENCE, config, link, lambda call: call(), True
    )

    def gap() -> float:
        """Mean |log p - log q| of fresh responses under the policy's current weights."""
        rollout = engine.sample(prompts, group_size=4, sampling=SAMPLING, seed=1)
        assert rollout.logprobs is not None
        with torch.no_grad():
            own = response_logprobs(policy.model, prompts, rollout.tokens, rollout.mask).logprobs
        return float((own - rollout.logprobs)[rollout.mask].abs().mean())

    engine.synchronise()
    assert gap() < 1e-2
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(1.5)
    assert gap() > 5e-2
    engine.synchronise()
    assert gap() < 1e-2
