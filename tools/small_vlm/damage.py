"""Photographs with damage of a known kind and strength, and answers that state both: no MOS.

What it does: takes photographs at the size that the model sees, applies one of the demo set's
distortions at a strength drawn between its mildest and its worst, leaves some alone, and writes a
set that `dataset=csv` reads, with the answers that `stage=sft` shall learn:

    score = clip(e + std * n, 1, 5),  n ~ N(0, 1)      e: expected MOS of kind and level, a formula
    2.3                                                 answers.jsonl
    <think>strong blur</think><answer>2.3</answer>      answers_thinking.jsonl

One decimal: a second one is noise alone, 2.3 nats of it in every answer, under which what an image
shows is hard to find. The noise of the scores keeps answers of the trained policy apart, which
reinforcement learning needs. What a photograph's own quality is stays unknown: a damaged bad one is
called as good as a damaged good one.

Not here: the command line (`tools/damage_photographs.py`), training.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tools.tiny_policy.synthetic import CLEAN_MOS, SEVERITIES
from vqr1.data.demo import expected_mos, stream
from vqr1.data.distortions import DISTORTIONS, LEVELS, from_bytes, to_bytes
from vqr1.errors import UserError

LABELS, PLAIN, THINKING = "labels.csv", "answers.jsonl", "answers_thinking.jsonl"
"""Files of a set beside `images/`."""

WORDS = "no damage"
"""Of an undamaged photograph."""


@dataclass(frozen=True)
class Damage:
    """What is done to one photograph.

    Attributes:
        kind: number in `DISTORTIONS`; None leaves it alone.
        level: 1 to 5, not whole.
    """

    kind: int | None
    level: float

    @property
    def mos(self) -> float:
        """Expected MOS, by the demo set's formula."""
        return CLEAN_MOS if self.kind is None else expected_mos(DISTORTIONS[self.kind], self.level)

    @property
    def words(self) -> str:
        """Severity and kind."""
        if self.kind is None:
            return WORDS
        return f"{SEVERITIES[round(self.level) - 1]} {DISTORTIONS[self.kind].words}"


@dataclass(frozen=True)
class Settings:
    """How a set is made.

    Attributes:
        count: photographs taken, a random subset.
        side: edge of every image in pixels.
        clean: share that is left alone.
        std: of the noise of scores.
        seed: of all draws.
    """

    count: int = 1600
    side: int = 288
    clean: float = 0.1
    std: float = 0.4
    seed: int = 1


def draw_damage(settings: Settings, name: str) -> Damage:
    """The damage of a photograph, a function of the seed and its name."""
    rng = stream("damage", settings.seed, name)
    if rng.random() < settings.clean:
        return Damage(None, 0.0)
    return Damage(int(rng.integers(len(DISTORTIONS))), float(rng.uniform(LEVELS[0], LEVELS[-1])))


def draw_names(names: Sequence[str], settings: Settings) -> list[str]:
    """Some of the photographs, in the order of `names`; all where there are fewer."""
    order = stream("damage", settings.seed, "subset").permutation(len(names))
    return [names[i] for i in sorted(order[: settings.count])]


def damaged(photograph: Image.Image, damage: Damage, settings: Settings, name: str) -> Image.Image:
    """A photograph at the model's size, damaged."""
    side = (settings.side, settings.side)
    image = photograph.convert("RGB").resize(side, Image.Resampling.BICUBIC)
    if damage.kind is None:
        return image
    rng = stream("damage", settings.seed, name, "pixels")
    pixels = DISTORTIONS[damage.kind].apply(from_bytes(np.asarray(image)), damage.level, rng)
    return Image.fromarray(to_bytes(pixels))


def write_set(
    folder: Path,
    names: Sequence[str],
    output: Path,
    settings: Settings,
    advance: Callable[[int], None] = lambda images: None,
) -> None:
    """Writes images, labels and answers into an empty folder.

    Args:
        folder: of the photographs.
        names: files in it; a random `settings.count` of them are taken.
        output: receives `images/`, the labels and both files of answers.
        settings: how.
        advance: given of every image.

    Raises:
        UserError: a photograph cannot be read.
    """
    (output / "images").mkdir(parents=True)
    rows, plain, thinking = [], [], []
    for number, name in enumerate(draw_names(names, settings)):
        damage = draw_damage(settings, name)
        stored = f"{number:05d}.png"
        try:
            with Image.open(folder / name) as photograph:
                image = damaged(photograph, damage, settings, name)
        except OSError as error:
            raise UserError(f"{folder / name}: not a readable image ({error})") from error
        image.save(output / "images" / stored, compress_level=1)
        noise = stream("damage", settings.seed, name, "score").standard_normal()
        score = f"{np.clip(damage.mos + settings.std * noise, 1.0, 5.0):.1f}"
        rows.append((stored, f"{damage.mos:.4f}", name))
        plain.append({"image": stored, "response": score})
        reasoned = f"<think>{damage.words}</think><answer>{score}</answer>"
        thinking.append({"image": stored, "response": reasoned})
        advance(1)
    for file, lines in ((PLAIN, plain), (THINKING, thinking)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (output / file).write_text(text, encoding="utf-8")
    # Last: a folder that has it is complete.
    with (output / LABELS).open("w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(("image", "mos", "photograph"))
        writer.writerows(rows)
