"""Multimodal rotary positions: those of the model library."""

from __future__ import annotations

import pytest
import torch

from tests.support.tiny_models import IMAGE_TOKEN, tiny_model, tiny_prompts
from vqr1.errors import ModelError
from vqr1.policy.families._qwen_positions import prompt_positions
from vqr1.policy.vision import encoding_of


def test_positions_equal_the_model_library() -> None:
    model = tiny_model()
    prompts = tiny_prompts([(2, 2), (3, 5), (7, 2), (1, 1)], [5, 9, 0, 1])
    _, grids = encoding_of(model).encode(prompts.flat_images)
    for ids, grid in zip(prompts.input_ids, grids, strict=True):
        found, following = prompt_positions(ids, [grid.tolist()], IMAGE_TOKEN, 2)
        expected, delta = model.model.get_rope_index(
            ids[None], (ids == IMAGE_TOKEN).int()[None], image_grid_thw=grid[None]
        )
        assert torch.equal(found, expected[:, 0])
        assert following == len(ids) + int(delta)


def test_positions_of_several_images_equal_the_model_library() -> None:
    model = tiny_model()
    prompts = tiny_prompts([(2, 2), (3, 5), (7, 2), (1, 1)], [5, 9, 0, 1])
    _, grids = encoding_of(model).encode(prompts.flat_images)
    ids = torch.cat(prompts.input_ids)
    found, following = prompt_positions(ids, grids.tolist(), IMAGE_TOKEN, 2)
    expected, delta = model.model.get_rope_index(
        ids[None], (ids == IMAGE_TOKEN).int()[None], image_grid_thw=grids
    )
    assert torch.equal(found, expected[:, 0])
    assert following == len(ids) + int(delta)


def test_image_tokens_that_do_not_match_the_image_are_refused() -> None:
    (ids,) = tiny_prompts([(2, 2)], [1]).input_ids
    with pytest.raises(ModelError, match="4 image tokens for an image of 6"):
        prompt_positions(ids, [(1, 4, 6)], IMAGE_TOKEN, 2)
