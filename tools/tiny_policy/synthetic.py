"""Synthetic pairs of image and answer for the tiny policy's warm start.

What it does: draws crops of the demo set's TRAINING photographs and of six grey photographs that
the demo set excludes (several scales, orientations and colourings, with random streams of their
own), damages them, and writes the answers that a
pretrained vision-language model might give: reasoning that names the damage and its severity, true
most of the time; mostly the asked form; and a score that follows quality only faintly,

    score = clip(3 + slope * (e - 3) + standard deviation * n, 1, 5),  n ~ N(0, 1)

with e the expected MOS (`vqr1.data.demo`).

Not here: the validation and test photographs, the demo set's own crops and labels, and
training (`tools.tiny_policy.warm_start`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from vqr1.data.demo import (
    CROP,
    PHOTOGRAPHS,
    Photograph,
    expected_mos,
    load_photograph,
    stream,
    texture,
)
from vqr1.data.distortions import DISTORTIONS, LEVELS, Pixels, to_bytes

GREY_PHOTOGRAPHS = tuple(
    Photograph(name, "skimage", f"data/{name}.png", sha256, "warm start")
    for name, sha256 in (
        ("brick", "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf"),
        ("camera", "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a"),
        ("coins", "f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba"),
        ("grass", "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89"),
        ("gravel", "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12"),
        ("moon", "78739619d11f7eb9c165bb5d2efd4772cee557812ec847532dbb1d92ef71f577"),
    )
)
"""More content for the warm start alone; tinted at random."""

SCALES = (190, 230, 272, 330, 400, 480)
"""Short edges, in pixels, that photographs are reduced to."""

COLLAGES = 0.3
"""Share of images that show two contents side by side."""

CLEAN = len(DISTORTIONS)
"""Type number of an undamaged crop."""

CLEAN_MOS = 4.8
"""Expected MOS of an undamaged crop."""

SEVERITIES = ("faint", "mild", "moderate", "strong", "extreme")
"""Words for levels 1 to 5."""

SENTENCES = (
    "The image shows {damage}.",
    "There is {damage} in the picture.",
    "I can see {damage} here.",
    "The photo suffers from {damage}.",
)

BROKEN = (
    "<think>{sentence}</think>{score}",
    "{sentence} <answer>{score}</answer>",
    "<think>{sentence}</think><answer>{score}",
    "<think>{sentence}<answer>{score}</answer>",
    "<think>{sentence}</think><answer>{word}</answer>",
)
"""Forms that break the rule of the thinking prompt, as pretrained models do now and then."""

WORDS = ("bad", "poor", "fair", "good", "excellent")


@dataclass(frozen=True)
class AnswerStyle:
    """How synthetic answers err.

    Attributes:
        truthful: share of answers that name the true type and level.
        format_compliant: share of answers to the thinking prompt in the asked form.
        slope: how strongly a score follows the expected MOS.
        std: standard deviation of a score around that.
    """

    truthful: float = 0.9
    format_compliant: float = 0.93
    slope: float = 0.15
    std: float = 0.65


@dataclass(frozen=True)
class Pool:
    """Synthetic images with what was done to them.

    Attributes:
        pixels: [N, 112, 112, 3] uint8.
        types: [N] int64 number in `DISTORTIONS`, or `CLEAN`.
        levels: [N] int64 level 1 to 5; 0 where clean.
    """

    pixels: NDArray[np.uint8]
    types: NDArray[np.int64]
    levels: NDArray[np.int64]

    def mos(self) -> NDArray[np.float32]:
        """[N] expected MOS of each image."""
        pairs = zip(self.types, self.levels, strict=True)
        return np.array([mos(int(t), int(level)) for t, level in pairs], dtype=np.float32)


def mos(kind: int, level: int) -> float:
    """Expected MOS of a type and level, `CLEAN` included."""
    return CLEAN_MOS if kind == CLEAN else expected_mos(DISTORTIONS[kind], level)


def _augment(crop: Pixels, rng: np.random.Generator) -> Pixels:
    """Other colours and orientations of the same content: a dozen photographs are few."""
    crop = np.rot90(crop, k=int(rng.integers(4)))
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    if rng.random() < 0.5:
        crop = crop[..., rng.permutation(3)]
    grey = crop.mean(axis=2, keepdims=True)
    crop = grey + (crop - grey) * rng.uniform(0.3, 1.3)
    tint = rng.uniform(0.85, 1.0, size=3)
    toned = np.clip(crop * tint, 0.0, 1.0) ** rng.uniform(0.8, 1.25)
    return np.ascontiguousarray(toned, dtype=np.float32)


def _draw_crop(images: Sequence[Pixels], rng: np.random.Generator) -> Pixels:
    """The more textured of two random crops of a random photograph."""
    image = images[int(rng.integers(len(images)))]
    height, width = image.shape[:2]
    crops = []
    for _ in range(2):
        top = int(rng.integers(height - CROP + 1))
        left = int(rng.integers(width - CROP + 1))
        crops.append(image[top : top + CROP, left : left + CROP])
    return max(crops, key=texture)


def _draw_content(images: Sequence[Pixels], rng: np.random.Generator) -> Pixels:
    """One augmented crop, or two side by side."""
    crop = _augment(_draw_crop(images, rng), rng)
    if rng.random() < COLLAGES:
        seam = int(rng.integers(CROP // 4, 3 * CROP // 4))
        crop[:, seam:] = _augment(_draw_crop(images, rng), rng)[:, seam:]
    return crop


def make_pool(count: int, seed: int, progress: Progress | None = None) -> Pool:
    """Draws crops at several scales and damages them.

    Args:
        count: images.
        seed: names the random stream.
        progress: a bar to advance once per image.
    """
    training = [photograph for photograph in PHOTOGRAPHS if photograph.split == "train"]
    images = [
        load_photograph(photograph, scale)
        for photograph in (*training, *GREY_PHOTOGRAPHS)
        for scale in SCALES
    ]
    rng = stream("warm start", seed, "pool")
    pixels = np.empty((count, CROP, CROP, 3), dtype=np.uint8)
    types = rng.integers(CLEAN + 1, size=count)
    levels = rng.integers(LEVELS[0], LEVELS[-1] + 1, size=count)
    levels[types == CLEAN] = 0
    task = progress.add_task("synthetic images", total=count) if progress else None
    for i in range(count):
        crop = _draw_content(images, rng)
        if types[i] != CLEAN:
            crop = DISTORTIONS[types[i]].apply(crop, float(levels[i]), rng)
        pixels[i] = to_bytes(crop)
        if progress and task is not None:
            progress.advance(task)
    return Pool(pixels, types, levels)


def sentence(kind: int, level: int, rng: np.random.Generator) -> str:
    """A sentence that names damage and severity."""
    clean = kind == CLEAN
    damage = "no damage" if clean else f"{SEVERITIES[level - 1]} {DISTORTIONS[kind].words}"
    return SENTENCES[int(rng.integers(len(SENTENCES)))].format(damage=damage)


def _believed(kind: int, level: int, truthful: float, rng: np.random.Generator) -> tuple[int, int]:
    """The type and level that the writer of an answer believes to see."""
    if rng.random() < truthful:
        return kind, level
    return int(rng.integers(CLEAN)), int(rng.integers(LEVELS[0], LEVELS[-1] + 1))


def response(
    prompt: str, kind: int, level: int, style: AnswerStyle, rng: np.random.Generator
) -> str:
    """The answer that the policy shall learn for one image.

    Args:
        prompt: thinking, non_thinking or describe.
        kind: what was done to the image.
        level: how strongly.
        style: shares, slope and standard deviation.
        rng: source of the noise.
    """
    words = sentence(*_believed(kind, level, style.truthful, rng), rng)
    if prompt == "describe":
        return words
    mean = 3.0 + style.slope * (mos(kind, level) - 3.0)
    value = float(np.clip(mean + style.std * rng.standard_normal(), 1.0, 5.0))
    if prompt == "non_thinking":
        return f"<answer>{value:.2f}</answer>"
    form = "<think>{sentence}</think><answer>{score}</answer>"
    if rng.random() >= style.format_compliant:
        form = BROKEN[int(rng.integers(len(BROKEN)))]
    word = WORDS[int(rng.integers(len(WORDS)))]
    return form.format(sentence=words, score=f"{value:.2f}", word=word)


def corpus(prompts: Mapping[str, str]) -> list[str]:
    """Texts that the tokenizer's merges are learned on: the prompts and every kind of answer."""
    rng = stream("warm start", "corpus")
    style = AnswerStyle(format_compliant=0.8)
    answers = [
        response(prompt, kind, level, style, rng)
        for prompt in prompts
        for kind in range(CLEAN + 1)
        for level in LEVELS
        for _ in range(20)
    ]
    system = "system\nYou are a helpful assistant.\nuser\nPicture 1: \nassistant\n"
    return [*answers, *([*prompts.values(), system] * 20)]
