"""What Qwen3-VL and Qwen2-VL have of their own: DeepStack, released sizes, costs, processors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForImageTextToText,
    Qwen2VLImageProcessor,
    SiglipImageProcessor,
)

from tests.policy.families.cases import CASES
from tests.policy.families.library import images_of, prompts_of
from tests.support.number_tokenizers import qwen_tokenizer
from tests.support.tiny_models import random_responses
from tools.tiny_checkpoints._qwen_vl import chat_template
from vqr1.config import ModelConfig, config_dir
from vqr1.errors import ConfigError
from vqr1.planning.shape import read_shape
from vqr1.policy.families import family
from vqr1.policy.loading import Policy, load_policy
from vqr1.policy.shared_prompt import response_logprobs
from vqr1.policy.unwrap import unwrap
from vqr1.policy.vision import VisionFeatures, encode_images, encoding_of

(CASE,) = (case for case in CASES if case.model_type == "qwen3_vl")
QWEN3 = family("qwen3_vl", "the model")


def loaded(checkpoint: Callable[[str], Path], name: str = "qwen3_vl") -> Policy:
    path = str(checkpoint(name))
    return load_policy(ModelConfig(name="m", path=path, min_pixels=4096, max_pixels=128 * 128))


@pytest.mark.medium
def test_deepstack_lies_beside_the_towers_result(checkpoint: Callable[[str], Path]) -> None:
    policy = loaded(checkpoint)
    model: Any = unwrap(policy.model)
    prompts = prompts_of(CASE, policy)
    with torch.no_grad():
        vision = encode_images(model, prompts)
        patches, grids = encoding_of(model).encode(prompts.images[0])
        own = model.model.get_image_features(patches, grids, return_dict=True)
    hidden, levels = 48, 2
    assert all(embed.shape[1] == (1 + levels) * hidden for (embed,) in vision.embeds)
    expected = torch.cat([own.pooler_output[0], *(level[0] for level in own.deepstack_features)], 1)
    torch.testing.assert_close(vision.embeds[0][0], expected, rtol=1e-5, atol=1e-5)
    # Each level matters: without it the log-probabilities are others.
    tokens, mask = random_responses([[3]] * len(prompts))
    with torch.no_grad():
        whole = response_logprobs(model, prompts, tokens, mask, vision=vision).logprobs
        for level in range(1 + levels):
            cut = copy.deepcopy(vision)
            for (embed,) in cut.embeds:
                embed[:, level * hidden : (level + 1) * hidden] = 0
            without = VisionFeatures(cut.embeds)
            found = response_logprobs(model, prompts, tokens, mask, vision=without).logprobs
            assert (found - whole).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("name", "numbers", "embedding", "head"),
    [
        # Weights as the hub counts them, and 151,936 x hidden.
        ("Qwen/Qwen3-VL-2B-Instruct", 2_127_532_032, 151_936 * 2048, 0),
        ("Qwen/Qwen3-VL-4B-Instruct", 4_437_815_808, 151_936 * 2560, 0),
        ("Qwen/Qwen3-VL-8B-Instruct", 8_767_123_696, 151_936 * 4096, 151_936 * 4096),
        ("Qwen/Qwen2-VL-2B-Instruct", 2_208_985_600, 151_936 * 1536, 0),
        ("Qwen/Qwen2-VL-7B-Instruct", 8_291_375_616, 152_064 * 3584, 152_064 * 3584),
    ],
)
def test_released_models_have_their_weights(
    name: str, numbers: int, embedding: int, head: int
) -> None:
    shape = read_shape(ModelConfig(name="m", path=name, min_pixels=4096, max_pixels=2**20))
    assert (shape.total, shape.embedding, shape.head) == (numbers, embedding, head)


@pytest.mark.parametrize("size", ["2b", "4b", "8b"])
def test_model_files_name_released_checkpoints(size: str) -> None:
    values = OmegaConf.load(config_dir() / "model" / f"qwen3_vl_{size}.yaml")
    assert QWEN3.released[values["path"]] == size
    assert values["recommended"]["model_types"] == ["qwen3_vl"]
    text = QWEN3.shape_config(size).text_config
    # Embedding once or twice, and in each layer q, o; k, v; gate, up and down.
    width, inner = text.hidden_size, text.intermediate_size
    heads = text.head_dim * (text.num_attention_heads + text.num_key_value_heads)
    layers = text.num_hidden_layers * width * (2 * heads + 3 * inner)
    embeddings = text.vocab_size * width * (1 if text.tie_word_embeddings else 2)
    assert values["recommended"]["parameters"] == pytest.approx(layers + embeddings, rel=3e-3)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "qwen3_5"])
def test_the_towers_operations_are_the_profilers(
    checkpoint: Callable[[str], Path], name: str
) -> None:
    own = family(name, "the model")
    # The library's layers: the profiler does not know the products of other libraries.
    model: Any = AutoModelForImageTextToText.from_pretrained(checkpoint(name))
    rule: Any = own.resize_rule(None, 1024, 2**20)
    (image,) = images_of([(rule.factor * 5, rule.factor * 3)])
    pixels = rule.pixels(image)
    tower = own.tower_cost(model.config, rule, image.size)
    assert (tower.tokens, tower.rows, tower.pixels) == (15, 60, pixels.numel())
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        own.image_features(model, encoding_of(model), [pixels])
    assert tower.flops == pytest.approx(counter.get_total_flops(), rel=1e-6)


@pytest.mark.parametrize(("name", "system"), [("qwen2_vl", True), ("qwen3_vl", False)])
def test_tokens_beside_the_image_are_about_those_of_the_published_prompt(
    name: str, system: bool
) -> None:
    tokenizer = qwen_tokenizer()
    text = OmegaConf.load(config_dir() / "prompt" / "thinking.yaml").text
    content = [{"type": "image"}, {"type": "text", "text": text}]
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}],
        chat_template=chat_template(system=system),
        add_generation_prompt=True,
        return_dict=False,
    )
    assert abs(len(ids) - 1 - family(name, "the model").text_tokens) <= 10


def test_an_image_processor_that_makes_no_patches_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"SiglipImageProcessor, which makes no patches for Qwen"):
        QWEN3.image_encoding(SiglipImageProcessor())


def test_patches_of_another_size_are_refused() -> None:
    config = QWEN3.shape_config("2b")
    own = Qwen2VLImageProcessor(patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    assert QWEN3.processor_problem(config, SimpleNamespace(image_processor=own)) is None
    # The released checkpoints' numbers, where there is no image processor.
    assert QWEN3.image_encoding(own) == QWEN3.released_encoding(config)
    assert QWEN3.resize_rule(None, 1, 2**20) == QWEN3.resize_rule(own, 1, 2**20)
    other = SimpleNamespace(image_processor=Qwen2VLImageProcessor())
    problem = QWEN3.processor_problem(config, other)
    assert problem is not None
    assert "patches of (14, 2, 2)" in problem
    assert "the tower takes (16, 2, 2)" in problem


def test_the_card_leaves_resized_images_as_they_are() -> None:
    """qwen-vl-utils is given the patch, and the processor does not resize again."""
    from vqr1.policy.families import _qwen2_5_vl_card as card

    class Facts:
        prompt, vision_id, min_pixels, max_pixels, max_new_tokens = "How?", False, 1, 2, 3
        images, system, enable_thinking = 1, None, None

    facts: Any = Facts()
    code = QWEN3.usage_code(facts)
    compile(code, "card", "exec")
    assert "process_vision_info(messages, image_patch_size=16)" in code
    assert "do_resize=False" in code
    assert "Qwen3VLForConditionalGeneration.from_pretrained" in code
    older = card.usage_code(facts, "Qwen2_5_VLForConditionalGeneration")
    assert "do_resize" not in older
    assert "process_vision_info(messages)\n" in older
