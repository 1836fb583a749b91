"""The server engine against vLLM itself on a CPU, all but NCCL real (`make test-vllm`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import get_peft_model

from tests.support.images import SENTENCE, noise_image
from tests.support.real_vllm import needs_vllm
from tools.faults import vllm_transport
from vqr1.config import ModelConfig, PromptConfig, RolloutServerConfig, SamplingConfig
from vqr1.policy.families.qwen2_5_vl import FAMILY
from vqr1.policy.loading import Policy, load_policy
from vqr1.policy.prompts import PromptBuilder, prompt_builder
from vqr1.policy.shared_prompt import response_logprobs
from vqr1.rollout.local import LocalEngine
from vqr1.rollout.vllm_client import VllmLink
from vqr1.rollout.vllm_server import VllmServerEngine

pytestmark = needs_vllm

MODEL = ModelConfig(name="tiny", path=None, min_pixels=28 * 28, max_pixels=112 * 112)
PROMPT = PromptConfig(name="sentence", text=SENTENCE, vision_id=True)
SAMPLING = SamplingConfig(top_k=50, max_new_tokens=24, stop="answer")
GREEDY = SamplingConfig(temperature=0.0, max_new_tokens=24, stop="answer")


class Asked:
    """A policy and the server that follows it."""

    def __init__(self, model: Any, policy: Policy, config: RolloutServerConfig, folder: Path):
        self.model = model
        link = VllmLink(config, SAMPLING, torch.device("cpu"), True, folder)
        self.engine = VllmServerEngine(
            model, policy.processor, PROMPT, config, link, lambda call: call(), True
        )
        self.local = LocalEngine(model, policy.processor.tokenizer, 10**6)
        builder = PromptBuilder(
            FAMILY, policy.processor, SENTENCE, MODEL.min_pixels, MODEL.max_pixels, vision_id=True
        )
        # The checkpoint's own processor would resize the narrow one again.
        self.prompts = builder(
            [noise_image(0, 56, 56), noise_image(1, 84, 56), noise_image(2, 28, 1000)]
        )

    def texts(self, seed: int) -> list[list[str]]:
        return self.engine.sample(self.prompts, group_size=4, sampling=SAMPLING, seed=seed).texts

    def gap(self) -> float:
        """Largest |log p - log q|: the policy's own pass against what the server reported."""
        rollout = self.engine.sample(self.prompts, group_size=4, sampling=SAMPLING, seed=3)
        assert rollout.logprobs is not None
        with torch.no_grad():
            own = response_logprobs(self.model, self.prompts, rollout.tokens, rollout.mask).logprobs
        return float((own - rollout.logprobs)[rollout.mask].abs().max())

    def check_greedy(self) -> None:
        served, local = (
            engine.sample(self.prompts, group_size=2, sampling=GREEDY, seed=0)
            for engine in (self.engine, self.local)
        )
        assert served.texts == local.texts

    def check_two_images(self, policy: Policy) -> None:
        """Greedy answers to two images, in both orders, with a system message.

        Args:
            policy: the processor and the family.
        """
        prompt = PromptConfig(
            name="two", text="Left <image>, right <image>: which?", images=2, vision_id=True,
            system="You compare images.",
        )  # fmt: skip
        builder = prompt_builder(policy.family, policy.processor, MODEL, prompt)
        first, second = noise_image(0, 56, 56), noise_image(1, 84, 56)
        prompts = builder([[first, second], [second, first]])
        self.engine._prompt = prompt
        served, local = (
            engine.sample(prompts, group_size=2, sampling=GREEDY, seed=0)
            for engine in (self.engine, self.local)
        )
        self.engine._prompt = PROMPT
        assert served.texts == local.texts


def move(model: Any, part: str, seed: int) -> None:
    """Something like an update of the weights that have `part` in their name."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if part in name:
                scale = 0.05 * weight.std() if weight.any() else 0.2
                weight.add_(scale * torch.randn(weight.shape, generator=generator))


@pytest.mark.parametrize("weights", ["adapter", "merged"])
def test_responses_follow_the_weights(real_vllm: str, weights: Any, tmp_path: Path) -> None:
    vllm_transport.install()
    policy = load_policy(MODEL)
    model: Any = policy.model
    if weights == "adapter":
        layers = PeftConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
        model = get_peft_model(model, layers).eval()
    asked = Asked(model, policy, RolloutServerConfig(url=real_vllm, weights=weights), tmp_path)
    assert asked.gap() < 1e-4
    assert asked.texts(3) == asked.texts(3) != asked.texts(4)
    # Twice: the second time an adapter's name is taken. Image features are those of the new tower.
    for seed, part in enumerate(["lora_B", "lora_B"] if weights == "adapter" else ["", "visual"]):
        move(model, part, seed)
        assert asked.gap() > 1e-2
        asked.engine.synchronise()
        assert asked.gap() < 1e-4
    asked.check_greedy()
    asked.check_two_images(policy)
