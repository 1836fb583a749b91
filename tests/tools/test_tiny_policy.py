"""The tiny policy: files that every transformers release reads, tokenizer, template, weights."""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image
from safetensors import safe_open
from transformers import AutoProcessor, AutoTokenizer, Qwen2_5_VLForConditionalGeneration
from transformers.utils.chat_template_utils import render_jinja_template

from tools.tiny_policy.factory import (
    CHAT_TEMPLATE,
    SPECIAL_TOKENS,
    TinySize,
    build_processor,
    build_tokenizer,
    random_tiny_model,
    save_policy_folder,
)
from vqr1.config import config_dir
from vqr1.policy.packaged import tiny_policy_folder

SMALL = TinySize(
    hidden=64, layers=2, heads=4, kv_heads=2, feed_forward=96,
    vision_hidden=32, vision_depth=2, vision_heads=2, vision_feed_forward=48,
)  # fmt: skip

CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "How good is it?"}],
    [{"role": "system", "content": " Be brief. \n"}, {"role": "user", "content": "Hi"}],
    [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " a\n"}]},
        {"role": "assistant", "content": " ok\n"},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": "x.png"},
                {"type": "video"},
                {"type": "image", "image": "y.png"},
                {"type": "text", "text": "{{ b }}"},
            ],
        },
    ],
]


@pytest.fixture(scope="module")
def processor() -> Any:
    return AutoProcessor.from_pretrained(tiny_policy_folder())


@pytest.fixture(scope="module")
def model() -> Any:
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_policy_folder()).eval()


def prompt_text(name: str) -> str:
    return str(OmegaConf.load(config_dir() / "prompt" / f"{name}.yaml").text)


def test_packaged_weights_are_small_and_load_as_float32(model: Any) -> None:
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert weights <= 4_000_000
    assert (tiny_policy_folder() / "model.safetensors").stat().st_size <= 8_000_000
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_files_have_the_form_that_old_releases_read() -> None:
    folder = tiny_policy_folder()
    config = json.loads((folder / "config.json").read_text())
    # 4.49 knows the text model's fields at the top level only, and `type: mrope`.
    assert "text_config" not in config
    assert {"hidden_size", "num_hidden_layers", "vocab_size", "rope_theta"} <= set(config)
    assert config["rope_scaling"]["type"] == "mrope"
    assert config["vision_config"]["in_chans"] == 3
    preprocessor = json.loads((folder / "preprocessor_config.json").read_text())
    assert preprocessor["image_processor_type"] == "Qwen2VLImageProcessor"
    assert preprocessor["patch_size"] == 14
    assert preprocessor["merge_size"] == 2
    for name in ("tokenizer.json", "vocab.json", "merges.txt", "chat_template.json"):
        assert (folder / name).is_file()


def test_weights_are_in_the_original_key_layout(model: Any) -> None:
    with safe_open(tiny_policy_folder() / "model.safetensors", framework="pt") as file:
        keys = set(file.keys())
    outside = {key for key in keys if not re.match(r"visual\.|model\.(layers|embed|norm)", key)}
    assert outside == {"lm_head.weight"}
    assert len(keys) == len(model.state_dict())


def test_saved_and_loaded_policy_computes_the_same(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(["a small corpus, 3.42"])
    fresh = random_tiny_model(tokenizer, SMALL, seed=3)
    save_policy_folder(fresh, tokenizer, tmp_path, SMALL)
    loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path).eval()
    ids = torch.tensor([tokenizer("a small corpus, 3.42").input_ids])
    # Weights are stored as float16: 11 significant bits, relative error 2**-11 at most each.
    rounded = {name: value.half().float() for name, value in fresh.state_dict().items()}
    fresh.load_state_dict(rounded)
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, fresh(ids).logits)
    assert loaded.config.vision_config.fullatt_block_indexes == [1]


def test_fresh_weights_are_a_function_of_the_seed_alone() -> None:
    tokenizer = build_tokenizer(["x"])
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = random_tiny_model(tokenizer, SMALL, seed=1).lm_head.weight
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(first, random_tiny_model(tokenizer, SMALL, seed=1).lm_head.weight)
    assert not torch.equal(first, random_tiny_model(tokenizer, SMALL, seed=2).lm_head.weight)
    assert first.std().item() == pytest.approx(SMALL.initial_std, rel=0.05)


@pytest.mark.parametrize("name", ["thinking", "non_thinking"])
def test_published_prompts_are_short(name: str, processor: Any) -> None:
    assert 60 <= len(processor.tokenizer(prompt_text(name)).input_ids) <= 100


def test_special_tokens_are_qwens_in_qwens_order(processor: Any) -> None:
    tokenizer = processor.tokenizer
    ids = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    assert ids == list(range(len(tokenizer) - len(SPECIAL_TOKENS), len(tokenizer)))
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert processor.image_token_id == ids[SPECIAL_TOKENS.index("<|image_pad|>")]
    text = "a<|im_start|>b<|image_pad|>"
    encoded = tokenizer(text).input_ids
    assert len(encoded) == 4
    assert tokenizer.decode(encoded) == text
    assert tokenizer.decode(encoded, skip_special_tokens=True) == "ab"


def test_digits_stand_alone(processor: Any) -> None:
    pieces = processor.tokenizer.convert_ids_to_tokens(
        processor.tokenizer("<answer>3.42</answer> 1234567890").input_ids
    )
    assert all(len(piece) == 1 for piece in pieces if any(c.isdigit() for c in piece))


@pytest.mark.medium
@given(st.text())
def test_any_text_round_trips(text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy_folder())
    normal = unicodedata.normalize("NFC", text)
    ids = tokenizer(normal).input_ids
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == normal


@pytest.mark.parametrize(
    ("conversation", "vision_id", "generation"),
    list(itertools.product(range(len(CONVERSATIONS)), (True, False), (True, False))),
)
def test_template_renders_like_the_released_one(
    conversation: int, vision_id: bool, generation: bool, shared: Path
) -> None:
    released = (shared / "reference" / "qwen2.5-vl-instruct.chat_template.jinja").read_text()
    ours, theirs = (
        render_jinja_template(
            conversations=[CONVERSATIONS[conversation]],
            chat_template=template,
            add_generation_prompt=generation,
            add_vision_id=vision_id,
        )[0]
        for template in (CHAT_TEMPLATE, released)
    )
    assert ours == theirs


def test_packaged_template_is_this_one(processor: Any) -> None:
    assert processor.chat_template == CHAT_TEMPLATE
    packaged = json.loads((tiny_policy_folder() / "chat_template.json").read_text())
    assert packaged["chat_template"] == CHAT_TEMPLATE
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Well?"}]}
    text = processor.apply_chat_template(
        [message], tokenize=False, add_generation_prompt=True, add_vision_id=True
    )
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nPicture 1: <|vision_start|><|image_pad|><|vision_end|>Well?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_built_processor_equals_the_packaged_one(processor: Any) -> None:
    built = build_processor(processor.tokenizer)
    image = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (120, 200, 3), dtype=np.uint8)
    )
    inputs = {"images": [image], "text": ["<|image_pad|>?"], "return_tensors": "pt"}
    for name, value in processor(**inputs).items():
        torch.testing.assert_close(built(**inputs)[name], value)


def test_packaged_policy_generates_with_the_library(model: Any, processor: Any) -> None:
    image = Image.new("RGB", (112, 112), (90, 120, 60))
    message = {
        "role": "user",
        "content": [{"type": "image"}, {"type": "text", "text": prompt_text("thinking")}],
    }
    text = processor.apply_chat_template(
        [message], tokenize=False, add_generation_prompt=True, add_vision_id=True
    )
    inputs = processor(images=[image], text=[text], return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=40, do_sample=False)
    answer = processor.tokenizer.decode(
        output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    assert re.fullmatch(r"<think>.+</think><answer>[1-5]\.\d\d</answer>", answer), answer
