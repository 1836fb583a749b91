"""The shared prompt of every family against its own class: every response a full row of its own."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForImageTextToText

from tests.policy.families.cases import FamilyCase
from tests.policy.families.library import in_double, own_inputs, own_logprobs, prompts_of
from tests.support.tiny_models import random_responses
from vqr1.config import ModelConfig
from vqr1.policy.families.base import Parts
from vqr1.policy.loading import Policy
from vqr1.policy.shared_prompt import response_logprobs
from vqr1.policy.unwrap import parts_of
from vqr1.policy.vision import VisionCache, VisionFeatures

pytestmark = pytest.mark.medium

TEMPERATURE = 0.8


@dataclass(frozen=True)
class Setting:
    """How a batch is computed and what of the model trains.

    `frozen` is the vision tower with what comes after it; `tower_only` leaves the latter trained.
    """

    name: str
    dtype: torch.dtype
    lengths: tuple[tuple[int, ...], ...]
    checkpointing: bool = False
    lora: bool = False
    frozen: bool = False
    tower_only: bool = False
    images: int = 1
    tolerance: float = 1e-5


RAGGED = ((4, 7, 1, 0, 2, 5), (5, 0, 0, 0, 0, 5), (0, 0, 0, 0, 0, 0), (0, 1, 1, 0, 3, 6))
PAIRS = ((6, 6), (1, 4), (0, 2), (3, 3))
SINGLE = ((5,), (1,), (3,), (0,))

F32, F64 = torch.float32, torch.float64
SETTINGS = (
    Setting("double", F64, RAGGED, tolerance=1e-9),
    Setting("checkpointing-lora-two", F32, SINGLE, checkpointing=True, lora=True, images=2),
    Setting(
        "tower-frozen", F32, PAIRS, checkpointing=True, lora=True, frozen=True, tower_only=True
    ),
)
FURTHER = (
    Setting("whole", F32, RAGGED),
    Setting("checkpointing-frozen", F32, PAIRS, checkpointing=True, frozen=True),
    Setting("tower-frozen-whole", F64, PAIRS, frozen=True, tower_only=True, tolerance=1e-9),
    Setting("double-three", F64, PAIRS, images=3, tolerance=1e-9),
    *(
        Setting(
            f"{len(lengths[0])}-{images}-{'checkpointing' * checkpointing}-{'lora' * lora}-"
            f"{'frozen' * frozen}",
            F64,
            lengths,
            checkpointing,
            lora,
            frozen,
            images=images,
            tolerance=1e-9,
        )
        for number, (lengths, images) in enumerate(((RAGGED, 1), (PAIRS, 2), (SINGLE, 4)))
        for checkpointing in (False, True)
        for lora in (False, True)
        for frozen in (False, True)
        if (number + checkpointing + lora + frozen) % 2 == 0
    ),
)
"""Single precision with all weights, and every two ways together in float64."""


@pytest.fixture(scope="session")
def library_model(model_config: ModelConfig) -> Any:
    """The family's own class, as plain transformers loads it."""
    model = AutoModelForImageTextToText.from_pretrained(model_config.path, dtype=torch.float32)
    return model.eval()


def prepared(model: Any, setting: Setting, targets: str, parts: Callable[[Any], Parts]) -> Any:
    """A copy of a model in the setting's type, with what trains in it."""
    model = copy.deepcopy(model).to(setting.dtype)
    model.requires_grad_(True)
    if setting.frozen:
        parts(model).vision.requires_grad_(False)
    connector = parts(model).connector
    if setting.lora:
        generator = torch.Generator().manual_seed(3)
        model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets)).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_" in name:
                    weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
    if setting.tower_only:
        connector.requires_grad_(True)
    return model.to(setting.dtype)


def gradients(model: Any, logprobs: Tensor) -> dict[str, Tensor]:
    """Gradients of a random weighting of the log-probabilities, by weight."""
    weights = torch.randn(logprobs.shape, generator=torch.Generator().manual_seed(5))
    model.zero_grad(set_to_none=True)
    (logprobs * weights.to(logprobs.dtype)).sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


CANCELLED = re.compile(r"vision.*\.(self_attn|attention)\.k_proj\.bias")
"""Biases of keys that no rotary embedding turns add the same to all scores of a query: the softmax
cancels them, and their gradient is nothing but rounding."""


def worst(found: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, str]:
    """Largest difference of a gradient, relative to its norm, and whose it is.

    Cancelled gradients are compared relative to those of the same layer's weight.
    """
    assert found.keys() == expected.keys()
    errors = []
    for name, truth in expected.items():
        scale = truth
        if CANCELLED.search(name):
            scale = expected[f"{name.removesuffix('bias')}weight"]
        errors.append((float((found[name] - truth).norm() / scale.norm().clamp_min(1e-12)), name))
    return max(errors)


@pytest.mark.parametrize(
    "setting",
    [
        *SETTINGS,
        *(pytest.param(one, marks=pytest.mark.slow, id=one.name) for one in FURTHER),
    ],
    ids=lambda setting: setting.name,
)
def test_logprobs_and_all_gradients_equal_full_rows_of_the_library(
    case: FamilyCase, policy: Policy, library_model: Any, setting: Setting
) -> None:
    family = policy.family
    targets = family.adapter_targets(["q_proj", "v_proj", "o_proj", "down_proj"])
    plain = prepared(library_model, setting, targets, family.parts)
    shared = prepared(policy.model, setting, targets, parts_of)
    prompts = prompts_of(case, policy, setting.images)
    tokens, mask = random_responses(setting.lengths)
    if setting.checkpointing:
        shared.gradient_checkpointing_enable({"use_reentrant": False})
        shared.enable_input_require_grads()
    rows = own_inputs(case, policy, prompts)
    features: VisionFeatures | None = None
    options: dict[str, Any] = {"temperature": TEMPERATURE, "with_entropy": True}
    with in_double() if setting.dtype == F64 else nullcontext():
        if setting.frozen and not setting.tower_only:
            features = VisionCache().encode(shared, prompts)
        found = response_logprobs(shared, prompts, tokens, mask, vision=features, **options)
        expected = own_logprobs(plain, rows, tokens, mask, TEMPERATURE)
        difference, name = worst(gradients(shared, found.logprobs), gradients(plain, expected))
    print(f"\n{case.model_type} {setting.name}: {difference:.1e} ({name})")
    assert found.logprobs.dtype == expected.dtype == setting.dtype
    tolerance = setting.tolerance * (case.rounding if setting.dtype == F32 else 1.0)
    torch.testing.assert_close(found.logprobs, expected, rtol=tolerance, atol=tolerance)
    assert (found.logprobs[~mask] == 0).all()
    assert found.entropy is not None
    assert (found.entropy[mask] > 0).all()
    assert difference < tolerance, name
