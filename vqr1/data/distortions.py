"""The ten image distortions of the demo set, each at five levels.

What it does: turns a clean RGB image into a damaged one. Strengths run from just noticeable
(level 1) to severe (level 5) and were set by eye on 112 x 112 crops, so that equal levels of
different types look about equally strong.

Not here: perceptual calibration. Real sets (KADID-10k and the like) measure MOS;
here the label is a formula (`vqr1.data.demo.expected_mos`), whose parameters stand beside each
type below.

Arrays are [height, width, 3] float32, RGB, in [0, 1], in and out.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Pixels = NDArray[np.float32]

LEVELS = (1, 2, 3, 4, 5)
"""Levels of every type, mildest first."""


def to_bytes(pixels: Pixels) -> NDArray[np.uint8]:
    """[H, W, 3] in [0, 1] to the 8-bit values that an image file holds."""
    return np.rint(np.clip(pixels, 0.0, 1.0) * 255.0).astype(np.uint8)


def from_bytes(pixels: NDArray[np.uint8]) -> Pixels:
    """[H, W, 3] 8-bit values to [0, 1]."""
    return pixels.astype(np.float32) / np.float32(255.0)


def _gaussian_blur(pixels: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    return ndimage.gaussian_filter(pixels, sigma=(sigma, sigma, 0.0), mode="reflect")


def _motion_blur(pixels: Pixels, length: float, rng: np.random.Generator) -> Pixels:
    angle = rng.uniform(0.0, np.pi)
    steps = np.linspace(-0.5, 0.5, int(np.ceil(length)) * 2 + 1) * length
    shifts = [(s * np.sin(angle), s * np.cos(angle), 0.0) for s in steps]
    moved = [ndimage.shift(pixels, shift, order=1, mode="reflect") for shift in shifts]
    return np.mean(moved, axis=0, dtype=np.float32)


def _jpeg(pixels: Pixels, quality: float, rng: np.random.Generator) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(to_bytes(pixels)).save(
        buffer, format="JPEG", quality=round(quality), subsampling=2
    )
    with Image.open(buffer) as decoded:
        return from_bytes(np.asarray(decoded.convert("RGB")))


def _white_noise(pixels: Pixels, deviation: float, rng: np.random.Generator) -> Pixels:
    return pixels + rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(deviation)


def _impulse_noise(pixels: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    hit = rng.random(pixels.shape[:2]) < share
    value = (rng.random(pixels.shape[:2]) < 0.5).astype(np.float32)
    return np.where(hit[..., None], value[..., None], pixels)


def _pixelation(pixels: Pixels, block: float, rng: np.random.Generator) -> Pixels:
    height, width = pixels.shape[:2]
    small = (max(1, round(width / block)), max(1, round(height / block)))
    image = Image.fromarray(to_bytes(pixels)).resize(small, Image.Resampling.BOX)
    return from_bytes(np.asarray(image.resize((width, height), Image.Resampling.NEAREST)))


def _darkness(pixels: Pixels, gain: float, rng: np.random.Generator) -> Pixels:
    return pixels * np.float32(gain)


def _overexposure(pixels: Pixels, gain: float, rng: np.random.Generator) -> Pixels:
    # Lifting the floor as well washes dark images out too, which a gain alone would leave dark.
    return pixels * np.float32(gain) + np.float32(0.12 * (gain - 1.0))


def _low_contrast(pixels: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    mean = pixels.mean(dtype=np.float64)
    return ((pixels - mean) * share + mean).astype(np.float32)


def _posterisation(pixels: Pixels, tones: float, rng: np.random.Generator) -> Pixels:
    steps = np.float32(tones - 1.0)
    return np.rint(np.clip(pixels, 0.0, 1.0) * steps) / steps


@dataclass(frozen=True)
class Distortion:
    """One way of damaging an image.

    Attributes:
        name: identifier, used in seeds and statistics.
        words: what a viewer would call it.
        strengths: parameter at levels 1 to 5.
        mildest: expected MOS at level 1, on the 1-5 scale.
        worst: expected MOS at level 5.
        disagreement: standard deviation of one rater's rating about this type.
        effect: (image, strength, random stream) to the damaged image, not yet clipped.
    """

    name: str
    words: str
    strengths: tuple[float, float, float, float, float]
    mildest: float
    worst: float
    disagreement: float
    effect: Callable[[Pixels, float, np.random.Generator], Pixels]

    def apply(self, pixels: Pixels, level: float, rng: np.random.Generator) -> Pixels:
        """Damages an image.

        Args:
            pixels: [H, W, 3] in [0, 1].
            level: 1 (just noticeable) to 5 (severe); strengths between two levels are interpolated.
            rng: source of every random choice (noise, direction of motion).

        Returns:
            [H, W, 3] float32 in [0, 1].

        Raises:
            ValueError: the level is outside 1 to 5.
        """
        if not LEVELS[0] <= level <= LEVELS[-1]:
            raise ValueError(f"level is {level}; it must be between {LEVELS[0]} and {LEVELS[-1]}")
        strength = float(np.interp(level, LEVELS, self.strengths))
        return np.clip(self.effect(pixels, strength, rng), 0.0, 1.0).astype(np.float32)


DISTORTIONS = (
    Distortion("gaussian_blur", "blur", (0.7, 1.2, 1.8, 2.7, 4.0), 4.4, 1.2, 0.7, _gaussian_blur),
    Distortion("motion_blur", "motion blur", (3, 5.5, 9, 13, 19), 4.3, 1.2, 0.7, _motion_blur),
    Distortion("jpeg", "compression", (40, 22, 13, 8, 4), 4.5, 1.3, 0.8, _jpeg),
    Distortion("white_noise", "noise", (0.03, 0.06, 0.10, 0.16, 0.26), 4.4, 1.3, 0.7, _white_noise),
    Distortion(
        "impulse_noise", "speckles", (0.01, 0.03, 0.07, 0.14, 0.26), 4.1, 1.1, 0.6, _impulse_noise
    ),
    Distortion("pixelation", "pixelation", (1.6, 2.4, 3.5, 5.2, 8.0), 4.4, 1.1, 0.6, _pixelation),
    Distortion("darkness", "darkness", (0.72, 0.54, 0.39, 0.27, 0.17), 4.6, 1.8, 0.9, _darkness),
    Distortion("overexposure", "glare", (1.25, 1.55, 1.95, 2.5, 3.3), 4.5, 1.6, 0.9, _overexposure),
    Distortion(
        "low_contrast", "haze", (0.72, 0.52, 0.37, 0.25, 0.15), 4.6, 1.7, 0.9, _low_contrast
    ),
    Distortion("posterisation", "banding", (14, 9, 6, 4, 2), 4.6, 1.6, 0.8, _posterisation),
)
"""Every type, in the order of their two-digit codes in file names (01, 02, ...)."""
