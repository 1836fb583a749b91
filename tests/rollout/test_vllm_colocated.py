"""vLLM itself in this process, on a CPU, with the tiny policy (`make test-vllm`)."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import get_peft_model

from tests.support.images import noise_image
from tests.support.real_vllm import needs_vllm
from vqr1.config import ColocatedConfig, ModelConfig, PromptConfig, SamplingConfig
from vqr1.errors import ModelError
from vqr1.policy.families.qwen2_5_vl import FAMILY
from vqr1.policy.loading import Policy, load_policy
from vqr1.policy.prompts import PromptBuilder
from vqr1.policy.shared_prompt import response_logprobs
from vqr1.records import Rollout
from vqr1.rollout.local import LocalEngine
from vqr1.rollout.vllm_colocated import VllmColocatedEngine

pytestmark = needs_vllm

ROOT = Path(__file__).parents[2]

QUESTION = (
    "You are doing the image quality assessment task. Here is the question: What is your overall "
    "rating on the quality of this picture? The rating should be a float between 1 and 5, rounded "
    "to two decimal places, with 1 representing very poor quality and 5 representing excellent "
    "quality. Please only output the final answer with only one score in <answer> </answer> tags."
)
PROMPT = PromptConfig(name="question", text=QUESTION, vision_id=True)
MODEL = ModelConfig(name="tiny", path=None, min_pixels=28 * 28, max_pixels=112 * 112)
SAMPLING = SamplingConfig(top_k=50, max_new_tokens=24, stop="answer")
GREEDY = SamplingConfig(temperature=0.0, max_new_tokens=24, stop="answer")
IMAGES = [noise_image(0, 56, 56), noise_image(1, 84, 56), noise_image(0, 56, 56)]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(MODEL)


@pytest.fixture(scope="module")
def engine(policy: Policy) -> VllmColocatedEngine:
    return VllmColocatedEngine(
        policy,
        PROMPT,
        ColocatedConfig(kv_cache_gib=0.0625, enforce_eager=True),
        MODEL,
        SAMPLING,
        dtype="float32",
        seed=0,
        alone=True,
    )


@pytest.fixture(scope="module")
def prompts(policy: Policy) -> Any:
    return PromptBuilder(
        FAMILY, policy.processor, QUESTION, MODEL.min_pixels, MODEL.max_pixels, vision_id=True
    )(IMAGES)


def moved(policy: Policy) -> Any:
    """The policy after something like an update, of both towers."""
    model = load_policy(MODEL).model
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * weight.std() * torch.randn(weight.shape, generator=generator))
    return model


def gap(model: Any, prompts: Any, rollout: Rollout) -> float:
    """Largest |log p - log q|: the policy's own pass against what vLLM reported."""
    assert rollout.logprobs is not None
    with torch.no_grad():
        own = response_logprobs(model, prompts, rollout.tokens, rollout.mask).logprobs
    return float((own - rollout.logprobs)[rollout.mask].abs().max())


def test_responses_are_drawn_from_the_weights_that_were_taken_over(
    engine: VllmColocatedEngine, policy: Policy, prompts: Any
) -> None:
    engine.with_model(policy.model)

    def ask(seed: int = 3) -> Rollout:
        return engine.sample(prompts, group_size=4, sampling=SAMPLING, seed=seed)

    first = ask()
    assert first.tokens.shape[:2] == (3, 4)
    assert gap(policy.model, prompts, first) < 1e-4
    assert ask().texts == first.texts
    assert ask(seed=4).texts != first.texts
    # The same image twice in a batch: two samples, not one.
    assert first.texts[0] != first.texts[2]
    changed = moved(policy)
    engine.with_model(changed)
    assert gap(changed, prompts, ask()) < 1e-4
    # An update is not noticed before `synchronise`, and is after it: image features included.
    with torch.no_grad():
        for weight in changed.model.visual.parameters():
            weight.mul_(1.1)
    assert gap(changed, prompts, ask()) > 1e-2
    engine.synchronise()
    assert gap(changed, prompts, ask()) < 1e-4


def test_greedy_responses_are_the_local_engines(
    engine: VllmColocatedEngine, policy: Policy, prompts: Any
) -> None:
    engine.with_model(policy.model)
    served = engine.sample(prompts, group_size=2, sampling=GREEDY, seed=0)
    local = LocalEngine(policy.model, policy.processor.tokenizer, 10**6).sample(
        prompts, group_size=2, sampling=GREEDY, seed=0
    )
    assert served.texts == local.texts
    assert torch.equal(served.finished, local.finished)
    assert torch.equal(served.mask, local.mask)
    assert torch.equal(served.tokens[served.mask], local.tokens[local.mask])


def test_adapters_are_added_to_the_weights(engine: VllmColocatedEngine, prompts: Any) -> None:
    adapted = get_peft_model(
        load_policy(MODEL).model,
        PeftConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"]),
    ).eval()
    generator = torch.Generator().manual_seed(1)
    before = {name: weight.clone() for name, weight in adapted.named_parameters()}
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
                before[name] = weight.clone()
    engine.with_model(adapted)
    rollout = engine.sample(prompts, group_size=4, sampling=SAMPLING, seed=5)
    assert gap(adapted, prompts, rollout) < 1e-4
    # Nothing was merged into the policy.
    assert all(torch.equal(weight, before[name]) for name, weight in adapted.named_parameters())


def test_responses_end_by_our_rules(
    engine: VllmColocatedEngine, policy: Policy, prompts: Any
) -> None:
    engine.with_model(policy.model)
    rollout = engine.sample(prompts, group_size=8, sampling=SAMPLING, seed=8)
    ends = {"</answer>", "<|im_end|>", "<|endoftext|>"}
    tokenizer = policy.processor.tokenizer
    seen = set()
    for tokens, mask, finished in zip(
        rollout.tokens.flatten(0, 1), rollout.mask.flatten(0, 1), rollout.finished.flatten(),
        strict=True,
    ):  # fmt: skip
        text = tokenizer.decode(tokens[mask])
        if finished:
            assert any(text.endswith(end) for end in ends), text
            seen |= {end for end in ends if text.endswith(end)}
        else:
            assert int(mask.sum()) == SAMPLING.max_new_tokens
    assert "</answer>" in seen


def test_an_image_at_the_largest_size_fits(engine: VllmColocatedEngine, policy: Policy) -> None:
    engine.with_model(policy.model)
    builder = PromptBuilder(
        FAMILY, policy.processor, QUESTION, MODEL.min_pixels, MODEL.max_pixels, vision_id=True
    )
    prompts = builder([noise_image(2, 112, 112), noise_image(3, 28, 1000)])
    rollout = engine.sample(prompts, group_size=2, sampling=SAMPLING, seed=0)
    assert gap(policy.model, prompts, rollout) < 1e-4


def test_a_second_engine_is_refused(engine: VllmColocatedEngine, policy: Policy) -> None:
    with pytest.raises(ModelError, match="hydra/launcher=processes"):
        VllmColocatedEngine(
            policy, PROMPT, ColocatedConfig(), MODEL, SAMPLING,
            dtype="float32", seed=0, alone=True,
        )  # fmt: skip


def test_two_processes_train_with_an_engine_each(tmp_path: Path) -> None:
    keys = (
        "rollout=vllm_colocated", "rollout.colocated.kv_cache_gib=0.0625",
        "rollout.colocated.enforce_eager=true", "rollout.sampling.max_new_tokens=48",
        "rollout.sampling.stop=answer", "hardware=cpu_2procs", "max_steps=2",
        "hardware.strategy=fsdp2", "hardware.reference=sharded",
        "dataset.max_images=60", "loader.batch_size=4", "loader.workers=1",
        "validation.max_images=8", "validation.test=false", "callbacks.progress=false",
        "logger=csv",
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *keys, f"run_dir={tmp_path}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=400, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with (tmp_path / "metrics.csv").open() as file:
        gaps = [row["train/mismatch/logprob_gap"] for row in csv.DictReader(file)]
    steps = [float(gap) for gap in gaps if gap]
    assert len(steps) == 2
    assert 0 < max(steps) < 1e-5
