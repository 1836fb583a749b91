"""Prompts of several images, some of which come again in others or in the same one."""

from __future__ import annotations

import pickle
from typing import Any

import jinja2
import numpy as np
import pytest
import torch
from PIL import Image

from tests.policy.test_shared_prompt import assert_same_gradients, weighted_gradients
from tests.support.images import SENTENCE, noise_image
from tests.support.plain_logprobs import plain_logprobs
from tests.support.tiny_models import (
    IMAGE_TOKEN,
    PATCH,
    VISION_END,
    VISION_START,
    random_responses,
    tiny_model,
)
from vqr1.config import PromptConfig, validate
from vqr1.errors import ConfigError, DataError
from vqr1.policy.chat_content import chat_content
from vqr1.policy.families.qwen2_5_vl import FAMILY
from vqr1.policy.prompts import PromptBuilder
from vqr1.policy.shared_prompt import plan_micro_batches, response_logprobs
from vqr1.policy.vision import VisionCache, encode_images, image_keys
from vqr1.records import PromptBatch
from vqr1.rollout.sampling import prompt_seed, uniform_noise

MERGED = {"a": (2, 2), "b": (3, 5), "c": (4, 2), "d": (1, 3)}
"""Merged patches, rows and columns, of four images."""
GROUPS = ("ab", "a", "bba", "dcab")
LENGTHS = [[4, 0, 3], [2, 2, 2], [0, 5, 1], [1, 1, 1]]


def several(groups: tuple[str, ...] = GROUPS) -> PromptBatch:
    """Prompts of images by letter, a few words before each; equal images are no one tensor."""
    generator = torch.Generator().manual_seed(4)
    pixels = {
        name: torch.randint(
            0, 256, (2 * rows * PATCH, 2 * columns * PATCH, 3), dtype=torch.uint8,
            generator=generator,
        )
        for name, (rows, columns) in MERGED.items()
    }  # fmt: skip
    prompts = []
    for group in groups:
        ids: list[int] = []
        for name in group:
            tokens = [IMAGE_TOKEN] * (MERGED[name][0] * MERGED[name][1])
            ids += [7, 8, VISION_START, *tokens, VISION_END]
        prompts.append(torch.tensor([*ids, 3, 5, 9]))
    images = tuple(tuple(pixels[name].clone() for name in group) for group in groups)
    return PromptBatch(tuple(prompts), images)


@pytest.fixture
def patches_seen() -> tuple[Any, list[int]]:
    model, seen = tiny_model(), []
    model.model.visual.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len((*args, *kwargs.values())[0])), with_kwargs=True
    )
    return model, seen


@pytest.mark.parametrize("keyed", [False, True])
def test_an_image_that_comes_again_is_encoded_once_and_gets_all_gradients(
    patches_seen: tuple[Any, list[int]], keyed: bool
) -> None:
    model, seen = patches_seen
    prompts = several()
    if keyed:
        prompts = PromptBatch(prompts.input_ids, prompts.images, image_keys(model, prompts))
    tokens, mask = random_responses(LENGTHS)
    vision = encode_images(model, prompts)
    # 4 + 15 + 8 + 3 merged patches of a, b, c and d, four patches each.
    assert seen == [120]
    assert [[len(embed) for embed in group] for group in vision.embeds] == [
        [4, 15], [4], [15, 15, 4], [3, 8, 4, 15],
    ]  # fmt: skip
    plain = plain_logprobs(model, prompts, tokens, mask)
    expected = weighted_gradients(model, plain.logprobs)
    weights = torch.randn(mask.shape, generator=torch.Generator().manual_seed(5))
    model.zero_grad(set_to_none=True)
    vision = encode_images(model, prompts)
    leaves = vision.leaves()
    parts = plan_micro_batches(prompts, mask, 60)
    assert len(parts) > 2
    for part in parts:
        found = response_logprobs(
            model,
            prompts.select(part.start, part.stop),
            tokens[part],
            mask[part],
            vision=leaves.select(part.start, part.stop),
        )
        torch.testing.assert_close(found.logprobs, plain.logprobs[part], rtol=1e-5, atol=1e-5)
        (found.logprobs * weights[part]).sum().backward()
    vision.backward_from(leaves)
    summed = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert_same_gradients(summed, expected)


def test_the_cache_knows_images_in_other_company(patches_seen: tuple[Any, list[int]]) -> None:
    model, seen = patches_seen
    model.requires_grad_(False)
    prompts = several()
    cache = VisionCache()
    cache.encode(model, prompts.choose([0]))
    found = cache.encode(model, prompts)
    assert (cache.hits, cache.misses) == (2, 4)
    assert seen == [16, 60, 12, 32]
    expected = encode_images(model, prompts)
    for one, truth in zip(found.flat, expected.flat, strict=True):
        torch.testing.assert_close(one, truth, rtol=1e-5, atol=1e-5)


def test_a_batch_travels_with_each_image_once() -> None:
    prompts = several()
    shared = PromptBatch(prompts.input_ids, ((prompts.images[0][0],) * 2, *prompts.images[1:]))
    back: PromptBatch = pickle.loads(pickle.dumps(shared.choose([0, 3])))
    assert back.images[0][0] is back.images[0][1]
    assert [len(group) for group in back.images] == [2, 4]
    assert all(map(torch.equal, back.images[1], prompts.images[3]))
    assert back.to("cpu").flat_images[0] is not None


def test_noise_and_seeds_follow_the_images_and_their_order() -> None:
    a, b = bytes(range(16)), bytes(range(16, 32))
    one = uniform_noise(3, [(a,), (b,), (a,)], 2, 4)
    words = np.frombuffer(a, dtype=np.uint32).tolist()
    # Of a single image as ever: seed, how often it came, response, and its digest.
    assert one[2, 1].tolist() == np.random.default_rng([3, 1, 1, *words]).random(4).tolist()
    both = uniform_noise(3, [(a, b), (b, a), (a, b)], 1, 4)
    rows = [tuple(row) for row in (*one[:, 0].tolist(), *both[:, 0].tolist())]
    assert len(set(rows)) == 6
    assert torch.equal(uniform_noise(3, [(a, b)], 1, 4)[0], both[0])
    first, second = (torch.full((2, 2, 3), n, dtype=torch.uint8) for n in (1, 2))
    seeds = {prompt_seed(3, images) for images in ((first,), (first, second), (second, first))}
    assert len(seeds) == 3


@pytest.mark.parametrize("vision_id", [False, True])
@pytest.mark.parametrize("system", [None, "You compare images."])
def test_prompts_are_those_of_the_processor(
    processor: Any, vision_id: bool, system: str | None
) -> None:
    builder = PromptBuilder(
        FAMILY, processor, f"Left <image>, right <image>. {SENTENCE}", 56 * 56, 112 * 112,
        vision_id=vision_id, images=2, system=system,
    )  # fmt: skip
    loaded = [noise_image(0, 60, 60), noise_image(1, 140, 84)]
    batch = builder([loaded, [loaded[1], loaded[0]]])
    content = [
        {"type": "text", "text": "Left "}, {"type": "image"},
        {"type": "text", "text": ", right "}, {"type": "image"},
        {"type": "text", "text": f". {SENTENCE}"},
    ]  # fmt: skip
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    text = (
        jinja2.Environment()
        .from_string(processor.chat_template)
        .render(messages=messages, add_generation_prompt=True, add_vision_id=vision_id)
    )
    assert (system or "You are a helpful assistant.") in text
    assert ("Picture 2: <|vision_start|>" in text) == vision_id
    for ids, group in zip(batch.input_ids, batch.images, strict=True):
        shown = [Image.fromarray(image.numpy()) for image in group]
        expected = processor(text=[text], images=[shown], return_tensors="pt", do_resize=False)
        assert torch.equal(ids, expected["input_ids"][0])
        assert torch.equal(builder.encoding.encode(group)[0], expected["pixel_values"])
    # Without placeholders all images come first; with one token for each in the template.
    plain = PromptBuilder(FAMILY, processor, "?", 3136, 12544, vision_id=False, images=4)
    assert plain.text.count("<|vision_start|><|image_pad|><|vision_end|>" * 4 + "?") == 1
    assert plain.template_ids().count(processor.image_token_id) == 4


def test_other_numbers_of_images_are_refused_in_one_line(processor: Any) -> None:
    def problems(**values: Any) -> list[str]:
        with pytest.raises(ConfigError) as error:
            validate(PromptConfig, {"name": "p", "text": "?", **values})
        return error.value.problems

    (five,) = problems(images=5)
    assert five == "images=5: input should be less than or equal to 4"
    (two,) = problems(images=2, text="<image>?")
    assert two.endswith("it holds <image> 1 times, and prompt.images=2; write it once for each "
                        "image, or not at all (all images then come first)")  # fmt: skip
    with pytest.raises(ConfigError, match=r"^prompt\.images=5: must be 1 to 4$"):
        chat_content("?", 5)
    with pytest.raises(ConfigError, match=r"^prompt\.text: it holds <image> 3 times"):
        chat_content("<image><image><image>", 2)
    builder = PromptBuilder(FAMILY, processor, "?", 3136, 12544, vision_id=False, images=2)
    with pytest.raises(DataError, match=r"^5 images for one prompt: prompt\.images=2 of them"):
        builder([[noise_image(0)] * 5])
    with pytest.raises(DataError, match=r"^1 image for one prompt: prompt\.images=2 of them"):
        builder([noise_image(0)])
