"""vLLM on GPUs: in the training's process with sleep, and as a server that NCCL reaches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.images import SENTENCE, noise_image
from tests.support.real_vllm import needs_vllm, served
from vqr1.config import (
    ColocatedConfig,
    ModelConfig,
    PromptConfig,
    RolloutServerConfig,
    SamplingConfig,
)
from vqr1.policy.families.qwen2_5_vl import FAMILY
from vqr1.policy.loading import Policy, load_policy
from vqr1.policy.packaged import tiny_policy_folder
from vqr1.policy.prompts import PromptBuilder
from vqr1.policy.shared_prompt import response_logprobs
from vqr1.rollout.engine import RolloutEngine
from vqr1.rollout.vllm_client import VllmLink
from vqr1.rollout.vllm_colocated import VllmColocatedEngine
from vqr1.rollout.vllm_server import VllmServerEngine

pytestmark = [pytest.mark.gpu, needs_vllm]

MODEL = ModelConfig(name="tiny", path=None, min_pixels=56 * 56, max_pixels=112 * 112)
PROMPT = PromptConfig(name="sentence", text=SENTENCE, vision_id=True)
SAMPLING = SamplingConfig(top_k=50, max_new_tokens=32, stop="answer")


def check_follows(policy: Policy, engine: RolloutEngine, waits: bool = False) -> None:
    """Check that responses are drawn from the policy's weights once these are taken over.

    Args:
        policy: the policy; its weights are changed.
        engine: samples from it.
        waits: it does not see new weights before `synchronise`; one that sleeps does.
    """
    builder = PromptBuilder(
        FAMILY, policy.processor, SENTENCE, MODEL.min_pixels, MODEL.max_pixels, vision_id=True
    )
    prompts = builder([noise_image(seed, 84, 56) for seed in range(4)]).to("cuda:0")
    model: Any = policy.model

    def gap() -> float:
        """Mean |log p - log q| of fresh responses under the policy's current weights."""
        rollout = engine.sample(prompts, group_size=4, sampling=SAMPLING, seed=1)
        assert rollout.logprobs is not None
        with torch.no_grad():
            own = response_logprobs(model, prompts, rollout.tokens, rollout.mask).logprobs
        return float((own - rollout.logprobs)[rollout.mask].abs().mean())

    engine.synchronise()
    assert gap() < 1e-2
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    assert not waits or gap() > 5e-2
    engine.synchronise()
    assert gap() < 1e-2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_in_the_process() -> None:
    policy = load_policy(MODEL, device="cuda:0")
    config = ColocatedConfig(kv_cache_gib=0.5, enforce_eager=True)
    engine = VllmColocatedEngine(
        policy, PROMPT, config, MODEL, SAMPLING, dtype="float32", seed=0, alone=True
    )
    free, _ = torch.cuda.mem_get_info()
    check_follows(policy, engine)
    # The cache of half a GiB is there only while responses are sampled.
    engine._wake()
    awake, _ = torch.cuda.mem_get_info()
    assert free - awake > 2**28


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no two GPUs")
def test_as_a_server() -> None:
    command = ["vllm", "serve", str(tiny_policy_folder())]
    with served(command, CUDA_VISIBLE_DEVICES="1") as url:
        policy = load_policy(MODEL, device="cuda:0")
        config = RolloutServerConfig(url=url)
        link = VllmLink(config, SAMPLING, torch.device("cuda:0"), True, Path())
        engine = VllmServerEngine(
            policy.model, policy.processor, PROMPT, config, link, lambda call: call(), True
        )
        check_follows(policy, engine, waits=True)
