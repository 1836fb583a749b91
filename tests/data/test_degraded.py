"""Degraded copies: published kinds against PIL and numpy, and what decides the draw."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageEnhance

from vqr1.data.degraded import degraded_image, degraded_prompts
from vqr1.records import PromptBatch


def image(seed: int = 0) -> torch.Tensor:
    smooth = np.linspace(0, 255, 32 * 40 * 3).reshape(32, 40, 3)
    noise = np.random.default_rng(seed).normal(0, 8, smooth.shape)
    return torch.from_numpy(np.clip(smooth + noise, 0, 255).astype(np.uint8))


def test_published_kinds() -> None:
    original = image()
    dark = degraded_image(original, {"darkness": 0.6}, 1, "a")
    expected = np.asarray(ImageEnhance.Brightness(Image.fromarray(original.numpy())).enhance(0.6))
    assert np.abs(dark.numpy().astype(int) - expected).max() <= 1
    flat = torch.full((64, 64, 3), 128, dtype=torch.uint8)
    noisy = degraded_image(flat, {"white_noise": 45 / 255}, 1, "a").double()
    # 12288 values: the estimate of 45 has a standard deviation of .3.
    assert abs(noisy.std().item() - 45) < 1.5
    assert noisy.shape == flat.shape


def test_one_copy_for_an_image_of_a_run() -> None:
    kinds = {"white_noise": (0.05, 0.3), "darkness": (0.2, 0.9), "jpeg": 5.0}
    first = degraded_image(image(), kinds, 1, "set/a.png")
    assert torch.equal(
        first, degraded_image(image(), dict(reversed(kinds.items())), 1, "set/a.png")
    )
    assert not torch.equal(first, degraded_image(image(), kinds, 2, "set/a.png"))
    # The kinds are drawn equally often: of 400 copies of a flat image, noise alone has many values.
    flat = torch.full((8, 8, 3), 128, dtype=torch.uint8)
    copies = [degraded_image(flat, kinds, 1, f"set/{n}") for n in range(400)]
    noisy = sum(len(copy.unique()) > 20 for copy in copies)
    assert 105 < noisy < 162  # 133 +- 3 standard deviations of 9.4


def test_prompts_keep_their_tokens() -> None:
    ids = (torch.arange(3), torch.arange(5))
    batch = PromptBatch(ids, ((image(1), image(2)), (image(3),)), ((b"1", b"2"), (b"3",)))
    copies = degraded_prompts(batch, [["a", "b"], ["c"]], {"darkness": 0.5}, 0)
    assert copies.input_ids is ids
    assert copies.keys is None
    assert [len(images) for images in copies.images] == [2, 1]
    assert copies.images[0][1].float().mean() < 0.6 * batch.images[0][1].float().mean()
