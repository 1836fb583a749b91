"""Degraded copies of images by our own distortions: for tasks, and for the perception term.

`Damage` is one stated distortion of one image, of what a task asks about.

The perception term (Q-Hawkeye, arXiv 2601.22920) copies prompts' images. Each image has one copy in
a run: kind and strength are drawn by the run's seed and the image's name, whatever batch it comes
in. The copy has the size of the image as the model takes it, so that
its prompt has the same tokens. The published kinds and strengths are noise of deviation 45 / 255,
blur of sigma 2, JPEG of quality 5, and brightness times .6, each equally often.

Not here: the loss term (`vqr1.training.losses.perception`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vqr1.data.distortions import DISTORTIONS, Distortion, from_bytes, to_bytes
from vqr1.records import PromptBatch

KINDS: Mapping[str, Distortion] = {distortion.name: distortion for distortion in DISTORTIONS}
"""By name; strengths are in the units of the kind (`vqr1.data.distortions`)."""

Strength = float | tuple[float, float]
"""A fixed one, or the bounds between which it is drawn uniformly."""


@dataclass(frozen=True)
class Damage:
    """One distortion of our own.

    Attributes:
        kind: a name of `vqr1.data.distortions`.
        level: 1 (just noticeable) to 5 (severe).
        seed: of its random choices.
    """

    kind: str
    level: float
    seed: int

    def apply(self, pixels: Tensor) -> Tensor:
        """[H, W, 3] uint8 damaged copy of an image [H, W, 3] uint8, on the same device."""
        rng = np.random.default_rng(self.seed)
        damaged = KINDS[self.kind].apply(from_bytes(pixels.cpu().numpy()), self.level, rng)
        return torch.from_numpy(to_bytes(damaged)).to(pixels.device)


def degraded_image(
    image: Tensor, degradation: Mapping[str, Strength], seed: int, name: str
) -> Tensor:
    """[H, W, 3] uint8 copy of an image [H, W, 3] uint8, on the same device.

    Args:
        image: RGB bytes.
        degradation: kinds with their strengths, of which one is drawn.
        seed: of all draws.
        name: of the image, in all sets.
    """
    digest = hashlib.sha256(name.encode()).digest()
    rng = np.random.default_rng((seed, int.from_bytes(digest[:16])))
    kind = sorted(degradation)[int(rng.integers(len(degradation)))]
    given = degradation[kind]
    strength = rng.uniform(*given) if isinstance(given, Sequence) else given
    pixels = KINDS[kind].effect(from_bytes(image.cpu().numpy()), float(strength), rng)
    return torch.from_numpy(to_bytes(pixels)).to(image.device)


def degraded_prompts(
    prompts: PromptBatch,
    names: Sequence[Sequence[str]],
    degradation: Mapping[str, Strength],
    seed: int,
) -> PromptBatch:
    """The same B prompts about the degraded copies of all their images.

    Args:
        prompts: B prompts.
        names: of the images of each of them.
        degradation: as in `degraded_image`.
        seed: likewise.
    """
    copies = tuple(
        tuple(
            degraded_image(image, degradation, seed, name)
            for image, name in zip(images, own, strict=True)
        )
        for images, own in zip(prompts.images, names, strict=True)
    )
    return PromptBatch(prompts.input_ids, copies)
