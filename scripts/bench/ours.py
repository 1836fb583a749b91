"""Our side: the parts that the training step is made of, with a clock around its phases.

The vision tower is trained, so the reference has features of its own; the policy's features are
computed once, with history, and serve rollout and update.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from bench.clock import Clock, peak_memory_mib
from bench.flops import step_flops
from bench.setup import KL_WEIGHT, LEARNING_RATE, Size, pictures, processor, prompt_batch
from vqr1.config import SamplingConfig
from vqr1.policy.fast_layers import use_fast_layers
from vqr1.policy.shared_prompt import response_logprobs
from vqr1.policy.vision import VisionFeatures, encode_images
from vqr1.records import PromptBatch, Rollout
from vqr1.rollout.local import LocalEngine
from vqr1.training.advantages import group_advantages
from vqr1.training.loss import grpo_loss, token_weights


class EndlessTokenizer:
    """The tokenizer without tokens that end a turn: every response fills its length limit."""

    pad_token_id = 0
    eos_token_id = -1

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def get_vocab(self) -> dict[str, int]:
        """The vocabulary without the two ends of a turn, which are then never drawn."""
        vocab: dict[str, int] = self._tokenizer.get_vocab()
        return {k: v for k, v in vocab.items() if k not in ("<|im_end|>", "<|endoftext|>")}


class Contestant:
    """Policy, reference, optimiser and rollout engine; one call is one step."""

    def __init__(self, size: Size, folder: Path, device: torch.device, fast: bool) -> None:
        """Loads the weights; `fast` puts the layers of `use_fast_layers` in."""
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=dtype)
        self.model = model.to(device).eval()
        if fast:
            use_fast_layers(self.model)
        self.reference = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE)
        self.processor = processor()
        self.size = size
        self.engine = LocalEngine(self.model, EndlessTokenizer(self.processor.tokenizer), 2**17)
        self.images = pictures(size)
        self.clock = Clock()
        self.device = device
        self.seed = 0

    def step(self) -> None:
        """Sample, reference, update."""
        size, clock = self.size, self.clock
        clock.begin()
        with clock.phase("images"):
            prompts = prompt_batch(self.processor, self.images).to(self.device)
        with clock.phase("generation"):
            vision = encode_images(self.model, prompts)
            rollout = self.engine.sample(
                prompts,
                group_size=size.group,
                sampling=SamplingConfig(max_new_tokens=size.tokens),
                seed=self.seed,
                vision=vision.detach(),
            )
        assert int(rollout.lengths.min()) == size.tokens
        with clock.phase("reference"), torch.no_grad():
            reference = response_logprobs(self.reference, prompts, rollout.tokens, rollout.mask)
        self.optimizer.zero_grad(set_to_none=True)
        with clock.phase("update"):
            self._loss(prompts, rollout, vision, reference.logprobs).backward()
        with clock.phase("optimizer"):
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
        self.seed += 1
        clock.end()

    def _loss(
        self, prompts: PromptBatch, rollout: Rollout, vision: VisionFeatures, reference: Tensor
    ) -> Tensor:
        size = self.size
        policy = response_logprobs(
            self.model, prompts, rollout.tokens, rollout.mask, vision=vision
        ).logprobs
        rewards = torch.arange(size.group, device=self.device).remainder(3).float()
        return grpo_loss(
            policy,
            policy.detach(),
            reference,
            group_advantages(rewards.expand(size.images, -1)),
            token_weights(
                rollout.mask,
                torch.ones(size.images, dtype=torch.bool, device=self.device),
                "response_mean",
                size.tokens,
            ),
            kl_weight=KL_WEIGHT,
            clip=0.2,
        ).loss


def run(
    size: Size, folder: Path, device: torch.device, steps: int, fast: bool = True
) -> dict[str, Any]:
    """Runs one warm-up step and `steps` timed ones; see `peer.run`."""
    contestant = Contestant(size, folder, device, fast)
    for _ in range(steps + 1):
        contestant.step()
    prompts = prompt_batch(contestant.processor, contestant.images[:1])
    counted = step_flops(
        contestant.model.config,
        int(prompts.image_grid_thw.prod()),
        len(prompts.input_ids[0]),
        size.images,
        size.group,
        size.tokens,
    )
    return {
        "steps": contestant.clock.steps[1:],
        "peak_mib": peak_memory_mib(),
        "prompt_tokens": len(prompts.input_ids[0]),
        "flops": {"forward": counted.forward, "update": counted.update, "step": counted.step},
    }
