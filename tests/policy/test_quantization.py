"""Weights of 4 bits by bitsandbytes itself, which quantises and multiplies on a CPU too."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.images import noise_image
from tests.support.tiny_models import random_responses
from vqr1.cli.plan import load_train_config
from vqr1.config import SamplingConfig
from vqr1.policy import loading
from vqr1.policy.export import export_checkpoint
from vqr1.policy.loading import Policy, load_policy, trainable_parameters
from vqr1.policy.packaged import tiny_policy_folder
from vqr1.policy.prompts import PromptBuilder
from vqr1.policy.sampling_weights import half_weights
from vqr1.policy.shared_prompt import response_logprobs
from vqr1.policy.unwrap import parts_of
from vqr1.records import PromptBatch
from vqr1.rollout.local import LocalEngine

HERE = importlib.util.find_spec("bitsandbytes") is not None
pytestmark = [
    pytest.mark.medium,
    pytest.mark.skipif(not HERE, reason="bitsandbytes is not installed (make test-zero has it)"),
]
if HERE:
    from bitsandbytes.functional import dequantize_4bit


def loaded(*keys: str) -> Policy:
    return load_policy(load_train_config(["model=tiny", "hardware=1gpu_lora", *keys]).model)


@pytest.fixture
def quantized(monkeypatch: pytest.MonkeyPatch) -> Policy:
    """The tiny policy under adapters that change it, its text layers of 4 bits, on the CPU."""
    # A training on a CPU is refused: its kernels are slow there, and exist.
    monkeypatch.setattr(loading, "_check_quantization", lambda config, device: None)
    torch.manual_seed(0)
    policy = loaded("model.quantization=nf4")
    for layer in base_layers(policy):
        # Where a processor multiplies bfloat16, bitsandbytes lays the codes out anew for inference,
        # without a gradient. No GPU has that layout.
        assert hasattr(layer, "support_avx512bf16_for_cpu")
        layer.support_avx512bf16_for_cpu = False
    with torch.no_grad():
        for weight in trainable_parameters(policy.model):
            weight.add_(torch.randn_like(weight) * 0.02)
    return policy


def base_layers(policy: Policy) -> list[Any]:
    """The adapted layers of the text model, without their adapters."""
    modules = parts_of(policy.model).text_layers.modules()
    return [m.get_base_layer() for m in modules if hasattr(m, "get_base_layer")]


def prompts_of(policy: Policy) -> PromptBatch:
    model = load_train_config(["model=tiny"]).model
    builder = PromptBuilder(
        policy.family, policy.processor, "Rate it.", model.min_pixels, model.max_pixels,
        vision_id=False,
    )  # fmt: skip
    return builder([noise_image(number, 112, 112) for number in (1, 2)])


def logprobs(policy: Policy) -> torch.Tensor:
    tokens, mask = random_responses([[4, 7], [5, 5]])
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        return response_logprobs(policy.model, prompts_of(policy), tokens, mask).logprobs


def test_text_layers_are_of_four_bits_and_nothing_else_is(quantized: Policy) -> None:
    layers = base_layers(quantized)
    assert layers
    for layer in layers:
        count = layer.in_features * layer.out_features
        assert layer.weight.dtype == torch.uint8
        assert layer.weight.numel() == count // 2
        # Scales of 64 weights are of 8 bits themselves: `quantization.BYTES`.
        assert layer.weight.quant_state.absmax.dtype == torch.uint8
        assert layer.weight.quant_state.absmax.numel() == -(-count // 64)
    parts = parts_of(quantized.model)
    assert parts.head.weight.dtype == parts.embeddings.weight.dtype == torch.bfloat16
    assert {weight.dtype for weight in parts.vision.parameters()} == {torch.bfloat16}
    # Sampling leaves codes as they are, and their adapters in use.
    with half_weights(quantized.model):
        assert layers[0].weight.dtype == torch.uint8
        assert not any(getattr(m, "_disable_adapters", False) for m in parts.text.modules())


def test_passes_are_those_of_the_weights_that_the_codes_stand_for(quantized: Policy) -> None:
    found = logprobs(quantized)
    # The same adapters over the codes' weights, written out.
    full = loaded()
    full.model.load_state_dict(
        {k: v for k, v in quantized.model.state_dict().items() if "lora_" in k}, strict=False
    )
    with torch.no_grad():
        original = logprobs(full)
        for own, codes in zip(base_layers(full), base_layers(quantized), strict=True):
            own.weight.copy_(dequantize_4bit(codes.weight, codes.weight.quant_state))
        expected = logprobs(full)
    assert (found - expected).abs().max() < 0.1
    # 4 bits change the policy's answers: the comparison can fail.
    assert (original - expected).abs().mean() > 3 * (found - expected).abs().mean()


def test_adapters_train_and_codes_do_not(quantized: Policy) -> None:
    before = [layer.weight.clone() for layer in base_layers(quantized)]
    trained = trainable_parameters(quantized.model)
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    kept = [weight.detach().clone() for weight in trained]
    start = logprobs(quantized).sum()
    (-start).backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in trained)
    optimizer.step()
    assert all(not torch.equal(*pair) for pair in zip(trained, kept, strict=True))
    assert logprobs(quantized).sum() > start
    assert all(map(torch.equal, before, (layer.weight for layer in base_layers(quantized))))


def test_responses_are_sampled_and_scored_alike(quantized: Policy) -> None:
    prompts = prompts_of(quantized)
    engine = LocalEngine(quantized.model, quantized.processor.tokenizer, 10**6)
    sampling = SamplingConfig(max_new_tokens=6)
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        rollout = engine.sample(prompts, group_size=2, sampling=sampling, seed=3)
        found = response_logprobs(quantized.model, prompts, rollout.tokens, rollout.mask).logprobs
    assert rollout.logprobs is not None
    assert (found - rollout.logprobs)[rollout.mask].abs().max() < 0.1


def test_an_export_is_the_checkpoint_with_the_adapters_merged(
    quantized: Policy, tmp_path: Path
) -> None:
    exported = load_file(export_checkpoint(quantized, tmp_path / "export") / "model.safetensors")
    original = load_file(tiny_policy_folder() / "model.safetensors")
    assert exported.keys() == original.keys()
    changed = {name for name in original if not torch.equal(exported[name], original[name])}
    assert len(changed) == len(base_layers(quantized))
    assert all(weight.is_floating_point() for weight in exported.values())
    (query,) = (name for name in changed if "layers.0.self_attn.q_proj" in name)
    layer = parts_of(quantized.model).text_layers[0].self_attn.q_proj
    # Their product rounded to the checkpoint's type.
    delta = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    expected = original[query].float() + delta * layer.scaling["default"]
    assert (exported[query].float() - expected).abs().max() < 0.02 * expected.abs().max()
