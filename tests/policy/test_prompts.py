"""Prompts equal those of the published evaluation code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from qwen_vl_utils import process_vision_info

from tests.support.images import SENTENCE, noise_image
from vqr1.config import ModelConfig, PromptConfig
from vqr1.errors import ConfigError, DataError
from vqr1.policy.families import family
from vqr1.policy.families._qwen_images import AreaRule
from vqr1.policy.families.qwen2_5_vl import FAMILY
from vqr1.policy.prompts import PromptBuilder, prompt_builder

CONTENT = [{"type": "image"}, {"type": "text", "text": SENTENCE}]


@pytest.mark.parametrize("vision_id", [False, True])
def test_text_is_the_published_template(processor: Any, shared: Path, vision_id: bool) -> None:
    template = (shared / "reference" / "qwen2.5-vl-instruct.chat_template.jinja").read_text()
    message = {
        "role": "user",
        "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": SENTENCE}],
    }
    rendered = (
        jinja2.Environment()
        .from_string(template)
        .render(messages=[message], add_generation_prompt=True, add_vision_id=vision_id)
    )
    # The published training never had "Picture 1: ".
    start = "<|im_start|>user\nPicture 1: " if vision_id else "<|im_start|>user\n"
    assert f"{start}<|vision_start|><|image_pad|>" in rendered
    processor_with_it = processor.__class__(
        image_processor=processor.image_processor,
        tokenizer=processor.tokenizer,
        video_processor=processor.video_processor,
        chat_template=template,
    )
    assert FAMILY.chat_text(processor_with_it, CONTENT, vision_id) == rendered
    assert FAMILY.chat_text(processor, CONTENT, vision_id) == rendered


@pytest.mark.parametrize("vision_id", [False, True])
def test_prompts_equal_the_published_path(processor: Any, vision_id: bool) -> None:
    """Against process_vision_info and the processor, as the model card's code calls them."""
    images = [noise_image(n, w, h) for n, (w, h) in enumerate([(90, 61), (200, 300), (30, 28)])]
    published_limits = {"min_pixels": 4 * 28 * 28, "max_pixels": 16384 * 28 * 28}
    builder = PromptBuilder(FAMILY, processor, SENTENCE, **published_limits, vision_id=vision_id)
    batch = builder(images)
    for position, image in enumerate(images):
        message = {
            "role": "user",
            "content": [{"type": "image", "image": image}, {"type": "text", "text": SENTENCE}],
        }
        text = processor.apply_chat_template(
            [message], tokenize=False, add_generation_prompt=True, add_vision_id=vision_id
        )
        images, _ = process_vision_info([message])
        expected = processor(text=[text], images=images, return_tensors="pt")
        own = batch.select(position, position + 1)
        assert torch.equal(own.input_ids[0], expected["input_ids"][0])
        patches, grid = builder.encoding.encode(own.flat_images)
        assert torch.equal(grid, expected["image_grid_thw"])
        assert torch.equal(patches, expected["pixel_values"])


def test_area_limits_equal_qwen_vl_utils(processor: Any) -> None:
    limits = {"min_pixels": 100 * 100, "max_pixels": 160 * 160}
    builder = PromptBuilder(FAMILY, processor, SENTENCE, **limits, vision_id=True)
    for size in [(40, 40), (150, 90), (500, 333)]:
        image = noise_image(3, *size)
        element = {"type": "image", "image": image, **limits}
        (expected,), _ = process_vision_info([{"role": "user", "content": [element]}])
        assert builder.rule.size(*size) == expected.size
        assert builder([image]).flat_images[0].shape == (expected.size[1], expected.size[0], 3)


def test_shapes_and_image_tokens(processor: Any) -> None:
    batch = PromptBuilder(FAMILY, processor, SENTENCE, 56 * 56, 112 * 112, vision_id=True)(
        [noise_image(0, 56, 84), noise_image(1, 112, 112)]
    )
    # 56 x 84 pixels: 2 x 3 tokens of 28 x 28; 112 x 112: 4 x 4.
    assert [tuple(image.shape) for image in batch.flat_images] == [(84, 56, 3), (112, 112, 3)]
    tokens = [int((ids == processor.image_token_id).sum()) for ids in batch.input_ids]
    assert tokens == [6, 16]
    assert batch.input_ids[0].dtype == torch.int64
    assert {image.dtype for image in batch.flat_images} == {torch.uint8}


@given(
    width=st.integers(1, 4000),
    height=st.integers(1, 4000),
    low=st.integers(1, 60),
    high=st.integers(60, 4000),
)
def test_resized_sides_are_multiples_within_reach(
    width: int, height: int, low: int, high: int
) -> None:
    if max(width, height) > 200 * min(width, height):
        return
    rule = AreaRule(28, low * 784, high * 784)
    new_width, new_height = rule.size(width, height)
    assert new_width % 28 == new_height % 28 == 0
    assert min(new_width, new_height) >= 28
    assert new_width * new_height // 784 <= rule.most_tokens()


def test_very_narrow_images_are_refused(prompts: PromptBuilder) -> None:
    with pytest.raises(DataError, match="an image of 2 x 402 pixels is too narrow"):
        prompts([noise_image(0, 2, 402)])
    # Long but allowed, and above the largest area: the published rule's short side would be 0.
    assert prompts([noise_image(0, 28, 28 * 190)]).flat_images[0].shape[1] == 28


def test_contradictions_are_config_errors(processor: Any) -> None:
    with pytest.raises(ConfigError, match=r"model.min_pixels=9000: must not exceed model.max_pix"):
        PromptBuilder(FAMILY, processor, SENTENCE, 9000, 8000, vision_id=True)
    with pytest.raises(ConfigError, match=r"prompt.text: the chat template gives 2 image tokens"):
        PromptBuilder(FAMILY, processor, "Look: <|image_pad|>", 3136, 12544, vision_id=True)


def test_numbering_that_the_template_cannot_do_is_refused() -> None:
    own = family("llava", "the model")
    model = ModelConfig(name="m", path="m", min_pixels=1, max_pixels=2**20)
    with pytest.raises(ConfigError, match=r"vision_id=true: the chat template of LLaVA cannot"):
        prompt_builder(own, None, model, PromptConfig(name="p", text=SENTENCE, vision_id=True))
