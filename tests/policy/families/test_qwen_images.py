"""Images as the model takes them: to the bit what the image processor of transformers makes."""

from __future__ import annotations

import hashlib
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen2VLImageProcessor

from tests.support.images import noise_image
from vqr1.errors import ConfigError
from vqr1.policy.families._qwen_images import PatchEncoding
from vqr1.policy.families.qwen2_5_vl import FAMILY
from vqr1.policy.prompts import PromptBuilder
from vqr1.records import PromptBatch

SIZES = [(28, 28), (28, 196), (308, 28), (56, 84), (112, 112), (392, 504), (756, 1008)]


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator)


def processed(image_processor: Any, images: list[Tensor]) -> Any:
    """What the library makes of resized images."""
    return image_processor(
        images=[image.permute(2, 0, 1) for image in images],
        do_resize=False,
        input_data_format="channels_first",
        return_tensors="pt",
    )


def test_patches_are_the_image_processors_to_the_bit(processor: Any) -> None:
    encoding = FAMILY.image_encoding(processor.image_processor)
    assert encoding == PatchEncoding(rescale=processor.image_processor.rescale_factor)
    images = [noise(*size, seed=number) for number, size in enumerate(SIZES)]
    expected = processed(processor.image_processor, images)
    patches, grids = encoding.encode(images)
    assert torch.equal(patches, expected["pixel_values"])
    assert torch.equal(grids, expected["image_grid_thw"])
    # 28 x 28 pixels are one token, 392 x 504 are 14 x 18.
    assert [encoding.tokens(image) for image in images][::5] == [1, 14 * 18]


def test_every_grey_level_of_every_channel_is_the_image_processors(processor: Any) -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    # A column of 7 images of 28 x 28, whose 784 pixels hold all levels, in all channels.
    image = levels.repeat(22)[: 28 * 196].reshape(28, 196, 1).expand(-1, -1, 3).contiguous()
    assert all(len(image[..., channel].unique()) == 256 for channel in range(3))
    expected = processed(processor.image_processor, [image])
    found = FAMILY.image_encoding(processor.image_processor).patches(image)
    assert torch.equal(found, expected["pixel_values"])


def test_a_checkpoints_own_numbers_are_heeded() -> None:
    own = Qwen2VLImageProcessor(
        image_mean=[0.5, 0.4, 0.3],
        image_std=[0.5, 0.6, 0.7],
        rescale_factor=1 / 127.5,
        patch_size=7,
        temporal_patch_size=1,
    )
    image = noise(42, 56)
    found, grids = FAMILY.image_encoding(own).encode([image])
    expected = processed(own, [image])
    assert torch.equal(found, expected["pixel_values"])
    assert torch.equal(grids, expected["image_grid_thw"])


@pytest.mark.parametrize("missing", ["do_rescale", "do_normalize"])
def test_a_processor_that_leaves_grey_levels_as_they_are_is_refused(missing: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.path: preprocessor_config\.json turns"):
        FAMILY.image_encoding(Qwen2VLImageProcessor(**{missing: False}))


def test_keys_are_those_of_the_image_processors_patches(processor: Any) -> None:
    """The noise of a response comes from the key: another key would be another training."""
    image = noise(56, 84)
    patches = processed(processor.image_processor, [image])["pixel_values"]
    # 56 x 84 pixels are 4 x 6 patches.
    digest = hashlib.sha256(b"[1, 4, 6]" + patches.numpy().tobytes()).digest()[:16]
    assert FAMILY.image_encoding(processor.image_processor).key(image) == digest


def test_the_same_pixels_in_another_shape_have_another_key() -> None:
    encoding = PatchEncoding()
    flat = torch.full((28, 112, 3), 7, dtype=torch.uint8)
    assert encoding.key(flat) != encoding.key(flat.reshape(56, 56, 3))


def test_a_batch_takes_an_eighth_of_its_patches_to_the_trainer(processor: Any) -> None:
    """Bytes of tensors and of the message around them, as a worker sends them."""
    builder = PromptBuilder(
        FAMILY, processor, "How good is it?", 112 * 112, 112 * 112, vision_id=False
    )
    batch = builder.with_keys(builder([noise_image(n, 112, 112) for n in range(16)]))
    patches, grids = builder.encoding.encode(batch.flat_images)
    before = len(pickle.dumps((batch.input_ids, patches, grids), protocol=5))
    sent = pickle.dumps(batch, protocol=5)
    # 37,632 bytes of an image are 301,056 bytes of patches; its tokens are sent either way.
    assert len(sent) <= 0.15 * before
    back: PromptBatch = pickle.loads(sent)
    assert back.keys == batch.keys
    assert all(map(torch.equal, back.flat_images, batch.flat_images))
    assert all(map(torch.equal, back.input_ids, batch.input_ids))
    # Two tensors go out, however many images there are.
    storages = {t.untyped_storage().data_ptr() for t in (*back.flat_images, *back.input_ids)}
    assert len(storages) == 2


def test_some_of_a_batch_travel_without_the_rest(processor: Any) -> None:
    builder = PromptBuilder(
        FAMILY, processor, "How good is it?", 28 * 28, 112 * 112, vision_id=False
    )
    batch = builder([noise_image(n, 56 + 28 * n, 56) for n in range(3)])
    assert [tuple(image.shape) for image in batch.flat_images] == [
        (56, 56, 3),
        (56, 84, 3),
        (56, 112, 3),
    ]
    part: PromptBatch = pickle.loads(pickle.dumps(batch.choose([2, 0])))
    assert [tuple(image.shape) for image in part.flat_images] == [(56, 112, 3), (56, 56, 3)]
    assert torch.equal(part.flat_images[0], batch.flat_images[2])
    assert len(part.input_ids[0]) - len(part.input_ids[1]) == 8 - 4
    assert part.keys is None
