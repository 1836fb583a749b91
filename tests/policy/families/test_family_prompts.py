"""Prompts of every family: tokens, pixels and positions are its own processor's and model's."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPImageProcessorPil,
    LlavaImageProcessor,
    LlavaImageProcessorPil,
)

from tests.policy.families.cases import CASES, FamilyCase
from tests.policy.families.library import (
    TEXT,
    builder_of,
    first_inputs,
    images_of,
    own_inputs,
    own_logits,
    prompts_of,
)
from vqr1.errors import DataError, ModelError
from vqr1.policy.loading import Policy
from vqr1.policy.prompts import PromptBuilder
from vqr1.policy.unwrap import parts_of, unwrap
from vqr1.policy.vision import encode_images

pytestmark = pytest.mark.medium

LLAVAS = [case for case in CASES if case.model_type in ("fast_vlm", "llava")]


def one_argument(call: tuple[tuple[Any, ...], dict[str, Any]], place: int, name: str) -> Tensor:
    args, kwargs = call
    found: Tensor = kwargs[name] if name in kwargs else args[place]
    return found


def test_tokens_pixels_and_positions_are_the_familys_own(case: FamilyCase, policy: Policy) -> None:
    """Of images of all sizes: the text model's positions, and what enters the first vision block.

    Two pixels that differ in one grey level differ there too; the embedding of patches before it is
    the same module on both sides.
    """
    model, family = policy.model, policy.family
    several = prompts_of(case, policy, images=3)
    all_sizes = builder_of(case, policy)(images_of((*case.sizes, *case.extreme)))
    parts, config = parts_of(model), unwrap(model).config
    encoding = family.image_encoding(policy.processor.image_processor)
    further = torch.zeros(1, dtype=torch.int64)
    for prompts in [all_sizes.select(b, b + 1) for b in range(len(all_sizes))] + [several]:
        inputs = own_inputs(case, policy, prompts)[0]
        alone = prompts.select(0, 1)
        ids = alone.input_ids[0]
        assert torch.equal(inputs["input_ids"][0], ids)
        hooks = first_inputs(parts.vision_layers[0], parts.text.rotary_emb)
        with torch.no_grad(), hooks as (blocks, rotations):
            own_logits(model, inputs, further)
            encode_images(model, alone, at_once=True)
        own, ours = (one_argument(call, 0, "hidden_states") for call in blocks)
        assert torch.equal(own, ours)
        place = one_argument(rotations[0], 1, "position_ids")
        expected = place.reshape(-1, place.shape[-1])
        found, following = family.prompt_positions(config, encoding, ids, alone.images[0])
        assert torch.equal(found, expected[:, :-1].expand_as(found))
        # What comes next is where the model's own pass has one more token.
        assert expected[:, -1].unique().tolist() == [following]


def test_what_is_too_narrow_is_refused_in_one_line(case: FamilyCase, policy: Policy) -> None:
    if case.too_narrow is None:
        pytest.skip("this family's rule takes every shape")
    with pytest.raises(DataError, match=r"^an image of .* pixels is too narrow: [^\n]*$"):
        builder_of(case, policy)(images_of([case.too_narrow]))


def test_numbered_images(case: FamilyCase, policy: Policy) -> None:
    label = policy.family.image_label
    plain, numbered = (
        builder_of(case, policy, images=2, vision_id=flag).text for flag in (False, True)
    )
    assert TEXT in plain
    assert not label or label.format(1) not in plain
    assert (numbered == plain) == (label == "")
    for number in (1, 2):
        assert label == "" or numbered.count(label.format(number)) == 1


def test_a_bound_of_the_prompts_length_holds(case: FamilyCase, policy: Policy) -> None:
    builder = builder_of(case, policy)
    batch = builder(images_of((*case.sizes, *case.extreme)))
    lengths = [len(ids) for ids in batch.input_ids]
    assert max(lengths) <= builder.most_tokens()
    assert builder.text_tokens < min(lengths)


@pytest.mark.parametrize("case", LLAVAS, indirect=True, ids=lambda case: case.model_type)
def test_the_bound_follows_the_grid_of_the_tower(case: FamilyCase, policy: Policy) -> None:
    """A tower may give finer maps than released ones do: one token for 2 x 2 pixels."""
    processor = copy.copy(policy.processor)
    processor.patch_size = 2
    further = processor.num_additional_image_tokens - (case.model_type == "llava")
    builder = PromptBuilder(policy.family, processor, TEXT, *case.area, vision_id=False)
    (ids,) = builder(images_of(case.sizes[:1])).input_ids
    assert len(ids) == builder.most_tokens()
    assert builder.most_tokens() - builder.text_tokens == case.area[0] // 4 + further


@pytest.mark.parametrize("case", LLAVAS, indirect=True, ids=lambda case: case.model_type)
@pytest.mark.parametrize("pads", [False, True])
def test_both_kinds_of_image_processor_resize_as_they_would(
    case: FamilyCase, policy: Policy, pads: bool
) -> None:
    """Through torchvision and through Pillow; three pixels in a row, three channels."""
    values = policy.processor.image_processor.to_dict()
    kinds = (CLIPImageProcessor, CLIPImageProcessorPil)
    if pads:
        kinds = (LlavaImageProcessor, LlavaImageProcessorPil)
        values["do_pad"] = True
    resized = []
    for kind in kinds:
        own = kind(**{name: value for name, value in values.items() if "processor" not in name})
        rule = policy.family.resize_rule(own, *case.area)
        for image in images_of([*case.sizes, (3, 3), (1, 3), (3, 2)]):
            pixels = rule.pixels(image)
            assert (pixels.dtype, pixels.shape[-1]) == (torch.uint8, 3)
            resized.append(pixels)
            plain = own(
                np.array(image), do_rescale=False, do_normalize=False, return_tensors="pt",
                input_data_format="channels_last",
            )["pixel_values"][0]  # fmt: skip
            assert torch.equal(pixels, plain.permute(1, 2, 0))
    # Filters of the two differ in rounding only, unless an axis was taken for another.
    first, second = torch.stack(resized).double().chunk(2)
    assert float((first - second).abs().max()) <= 2


@pytest.mark.parametrize(
    "case",
    [case for case in LLAVAS if case.model_type == "llava"],
    indirect=True,
    ids=lambda case: case.model_type,
)
def test_a_tower_that_cannot_run_is_refused_in_one_line(case: FamilyCase, policy: Policy) -> None:
    config = copy.deepcopy(policy.model.config)
    config.vision_config.hidden_size += 1
    with pytest.raises(ModelError, match=r"^model: the tower that config\.json describes [^\n]*$"):
        policy.family.processor_problem(config, policy.processor)
