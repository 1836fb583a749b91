"""What Qwen3.5 and InternVL do that no other family does: reasoning, states, stacks of tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText, GotOcr2ImageProcessorPil, SiglipImageProcessor
from transformers.models.qwen3_5 import modeling_qwen3_5 as qwen

from tests.support.images import noise_image
from vqr1.config import LoraConfig, ModelConfig, PromptConfig
from vqr1.errors import ConfigError
from vqr1.planning.flops import step_flops
from vqr1.planning.shape import read_shape
from vqr1.policy.families import family
from vqr1.policy.families._qwen3_5_layers import FAST_LAYERS
from vqr1.policy.loading import load_policy, load_processor
from vqr1.policy.prompts import check_prompt, load_prompts
from vqr1.policy.served_weights import served_weights
from vqr1.policy.vision import encoding_of

pytestmark = pytest.mark.medium

HYBRID, TILED = family("qwen3_5", "the model"), family("internvl", "the model")
PROMPT = PromptConfig(name="p", text="How good is it?")


def test_the_template_opens_or_closes_a_block_of_reasoning(
    checkpoint: Callable[[str], Path],
) -> None:
    model = ModelConfig(
        name="m", path=str(checkpoint("qwen3_5")), min_pixels=4096, max_pixels=16384
    )
    empty = "<think>\n\n</think>\n\n"
    ends = {True: "<think>\n", False: empty, None: empty}
    for chosen, end in ends.items():
        text = load_prompts(model, replace(PROMPT, enable_thinking=chosen)).text
        assert text.endswith(f"<|im_start|>assistant\n{end}")
        content = [{"type": "image"}, {"type": "text", "text": PROMPT.text}]
        expected = load_processor(model).apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True,
            **({} if chosen is None else {"enable_thinking": chosen}),
        )  # fmt: skip
        assert text == expected
        code = HYBRID.usage_code(card_facts(chosen))
        compile(code, "card", "exec")
        assert (f"enable_thinking={chosen}" in code) == (chosen is not None)
    for name in ("qwen3_vl", "internvl"):
        with pytest.raises(ConfigError, match=r"^prompt\.enable_thinking=false: .*=null$"):
            check_prompt(family(name, "m"), replace(PROMPT, enable_thinking=False))


def card_facts(thinking: bool | None) -> Any:
    return SimpleNamespace(
        prompt="How?", vision_id=False, min_pixels=1, max_pixels=2, max_new_tokens=3, images=1,
        system=None, enable_thinking=thinking,
    )  # fmt: skip


LINEAR = {
    "A_log", "conv1d.weight", "dt_bias", "in_proj_a.weight", "in_proj_b.weight",
    "in_proj_qkv.weight", "in_proj_z.weight", "norm.weight", "out_proj.weight",
}  # fmt: skip
"""Weights of a layer of linear attention that vLLM's class of Qwen3.5 loads, by their names there
or put together (qkv and z, b and a); the convolution's as [C, 1, W]."""


def test_weights_are_served_by_the_names_that_vllm_loads(
    checkpoint: Callable[[str], Path],
) -> None:
    """Those of a saved checkpoint; vLLM maps three beginnings and leaves no weight out."""
    folder = checkpoint("qwen3_5")
    policy = load_policy(ModelConfig(name="m", path=str(folder), min_pixels=1, max_pixels=2**20))
    served = dict(served_weights(policy.model))
    saved = load_file(folder / "model.safetensors")
    assert served.keys() == saved.keys()
    assert all(torch.equal(value, saved[name]) for name, value in served.items())
    start = "model.language_model.layers.0.linear_attn."
    assert {name.removeprefix(start) for name in served if name.startswith(start)} == LINEAR
    inputs = served[f"{start}in_proj_qkv.weight"].shape[0]
    assert served[f"{start}conv1d.weight"].shape == (inputs, 1, 4)
    beginnings = ("model.visual.", "model.language_model.", "lm_head.")
    assert all(name.startswith(beginnings) for name in served)


def test_layers_without_keys_are_counted() -> None:
    """Matrices by their numbers, adapters by the layers that peft would find."""
    config = HYBRID.shape_config("40m")
    with torch.device("meta"):
        model: Any = HYBRID.model_class()(config)
    text, extra = config.text_config, HYBRID.text_extra(config.text_config)
    kinds: dict[str, int] = {}
    for name, module in model.model.language_model.layers.named_modules():
        if isinstance(module, nn.Linear):
            part = name.split(".")[1]
            kinds[part] = kinds.get(part, 0) + module.weight.numel()
    assert kinds["linear_attn"] == extra.linear * extra.weights
    # 2 images, 3 responses of 5 tokens after prompts of 7: all counted rows but the last tokens'.
    rows = 2 * (7 + 3 * 4)
    counted = step_flops(config, 0.0, 7, 2, 3, 5, extra)
    pairs = 2 * (7 * 8 / 2 + 3 * (4 * 7 + 4 * 5 / 2))
    attention = 4 * text.num_attention_heads * text.head_dim * 2 * pairs
    recurrence = 6 * 16 * 64 * 64 * extra.linear * rows  # 16 heads of 64 x 64
    logits = 2 * text.hidden_size * text.vocab_size * 2 * (1 + 3 * 4)
    assert counted.forward == 2 * rows * sum(kinds.values()) + attention + recurrence + logits
    lora = LoraConfig(rank=2, target_modules=["q_proj", "v_proj", "o_proj"])
    shape = read_shape(
        ModelConfig(name="m", path="Qwen/Qwen3.5-0.8B", min_pixels=1, max_pixels=2**20, lora=lora)
    )
    # q and its gate, v, o of 6 layers; q, k and v as one, o of 18.
    full = (1024 + 4096) + (1024 + 512) + (2048 + 1024)
    assert shape.adapters == 2 * (6 * full + 18 * ((1024 + 6144) + (2048 + 1024)))


def test_norms_of_one_plus_weight_are_the_librarys() -> None:
    torch.manual_seed(2)
    norm, rows = qwen.Qwen3_5RMSNorm(24), torch.randn(5, 24)
    nn.init.normal_(norm.weight)
    expected, lower = norm(rows), norm(rows.bfloat16())
    norm.__class__ = FAST_LAYERS[qwen.Qwen3_5RMSNorm]
    torch.testing.assert_close(norm(rows), expected)
    assert torch.equal(norm(rows.bfloat16()), lower)
    # Once for all the linear layers that follow.
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(norm(rows), expected.bfloat16())


def test_a_stack_of_tiles(checkpoint: Callable[[str], Path]) -> None:
    """Both kinds of processor cut alike but for rounding; the tower's operations are counted."""
    folder = checkpoint("internvl")
    model: Any = AutoModelForImageTextToText.from_pretrained(folder)
    own = load_processor(ModelConfig(name="m", path=str(folder), min_pixels=1, max_pixels=2**20))
    image = noise_image(1, 200, 100)
    rules = [
        TILED.resize_rule(one, 1, 4 * 56 * 56)
        for one in (
            own.image_processor,
            GotOcr2ImageProcessorPil(size={"height": 56, "width": 56}),
        )
    ]
    first, second = (rule.pixels(image) for rule in rules)
    assert first.shape == (3 * 56, 56, 3)
    assert tuple(first.shape[1::-1]) == rules[0].size(200, 100)
    assert np.abs(first.numpy().astype(int) - second.numpy().astype(int)).max() <= 2
    cost = TILED.tower_cost(model.config, rules[0], image.size)
    # 4 tokens a tile of 4 x 4 patches; two tiles, the whole image, two markers.
    assert (cost.tokens, cost.rows, cost.pixels) == (3 * 4 + 2, 3 * 17, first.numel())
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        TILED.image_features(model, encoding_of(model), [first])
    assert cost.flops == pytest.approx(counter.get_total_flops(), rel=1e-6)
    with pytest.raises(ConfigError, match=r"tiles of 56 x 56 pixels, at most 12"):
        TILED.resize_rule(own.image_processor, 1, 56)
    with pytest.raises(ConfigError, match=r"SiglipImageProcessor, cuts no square tiles"):
        TILED.image_encoding(SiglipImageProcessor())
    other = SimpleNamespace(image_processor=own.image_processor, image_seq_length=9)
    problem = TILED.processor_problem(model.config, other)
    assert problem is not None
    assert "9 tokens" in problem
