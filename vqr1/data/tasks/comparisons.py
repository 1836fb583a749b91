"""Which of two images is better: pairs from a file of stated preferences, or drawn by MOS.

By MOS, every image is paired with its neighbours on circles through all images that are drawn by
the seed (those whose scores compare: of one set, or of one reference). Which of the two is shown
first is drawn too, so that both answers come about equally often.

Q-Insight's comparison (arXiv 2503.22679) shows the undistorted reference before both, and has a
third answer for pairs that are alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from vqr1.config.types import STRICT_KEYS, NonNegativeFloat, PositiveInt
from vqr1.data.labelled_set import LabelledSet
from vqr1.data.labels import Split, label_format
from vqr1.data.location import set_folder
from vqr1.data.questions import IMAGES_AB, Question
from vqr1.data.reference_images import with_references
from vqr1.data.tasks.base import Item, TaskData, drawn_number
from vqr1.errors import ConfigError

BETTER = "better"
"""Label column with the right answer."""

Pair = tuple[int, int, float]
"""Rows of two images, and the preference for the first: 1, 1/2 or 0."""


@dataclass(config=STRICT_KEYS, kw_only=True, frozen=True)
class Comparisons(TaskData):
    """Pairs of images with the word that names the better one."""

    pairs: Literal["auto", "file", "mos"] = "auto"
    """`file`: the set's stated preferences (`dataset.pairs`); `mos`: drawn, by the order of the
    MOS. `auto`: the file where the set has one."""
    per_image: PositiveInt = 2
    """Pairs by MOS that an image is in, about."""
    within: Literal["set", "reference"] = "set"
    """Pairs by MOS are of all images of a set, or of one reference each."""
    difference: NonNegativeFloat = 0.5
    """Smallest difference of two MOS on [1, 5] at which one image is the better one."""
    similar: str | None = None
    """Answer for pairs nearer than that, and stated ones without a majority; null asks about none
    such."""
    reference: bool = False
    """Show the undistorted reference before both; pairs are of one reference then."""
    options: Annotated[tuple[str, ...], Field(min_length=2, max_length=2)] = IMAGES_AB
    """Answers for the first image and for the second."""

    columns = frozenset((BETTER,))

    @property
    def images(self) -> int:
        """Two, or three with the reference."""
        return 3 if self.reference else 2

    def problems(self, key: str) -> list[str]:
        """See `TaskData.problems`."""
        if len({*self.options, self.similar}) < 3:
            return [f"{key}: options and similar must be words that differ"]
        return []

    def items(self, labelled: LabelledSet, split: Split, seed: int, key: str) -> list[Item]:
        """See `TaskData.items`."""
        if self.pairs == "file" and labelled.pairs is None:
            raise ConfigError(
                [
                    f"{key}.pairs=file, {labelled.key}.pairs.file=None: name the file of pairs of "
                    f"{labelled.name}, or draw pairs by its MOS ({key}.pairs=mos)"
                ]
            )
        stated = labelled.pairs is not None and self.pairs != "mos"
        pairs = self._stated(labelled, split) if stated else self._drawn(labelled, split, seed)
        images = self._images(labelled, key)
        found = []
        for first, second, preference in pairs:
            one, other = images[first], images[second]
            if self.reference and one[0] != other[0]:
                continue  # a stated pair across references
            turned = drawn_number(seed, "order", one, other) % 2 == 1
            shown = (other[-1], one[-1]) if turned else (one[-1], other[-1])
            better = self._word(1 - preference if turned else preference)
            if better is not None:
                before = (one[0],) if self.reference else ()
                found.append(Item((*before, *shown), {BETTER: better}))
        if not found and split == "train":
            raise ConfigError(
                [
                    f"{key}: no pair of training images of {labelled.name} "
                    + (
                        "is stated with a majority"
                        if stated
                        else f"differs by {self.difference:g} on [1, 5] ({key}.difference)"
                    )
                    + "; train without the task, or on another set "
                    f"({key.removesuffix('.data')}.dataset)"
                ]
            )
        return found

    def question(self, item: Item, text: str, where: str) -> Question:
        """See `TaskData.question`."""
        similar = () if self.similar is None else (self.similar,)
        return Question(
            where, "comparison", item.images, text, item.words[BETTER], (*self.options, *similar)
        )

    def _word(self, preference: float) -> str | None:
        """The right answer at a preference for the image that is shown first."""
        if preference == 0.5:
            return self.similar
        return self.options[0 if preference > 0.5 else 1]

    def _stated(self, labelled: LabelledSet, split: Split) -> list[Pair]:
        assert labelled.pairs is not None, "asked for where the set has pairs"
        stated = labelled.pairs.stated.within(labelled.rows(split).index)
        return list(
            zip(
                stated.first.tolist(),
                stated.second.tolist(),
                stated.preference.tolist(),
                strict=True,
            )
        )

    def _drawn(self, labelled: LabelledSet, split: Split, seed: int) -> list[Pair]:
        mos = labelled.table["mos_scaled"].to_numpy(float)
        if labelled.config.mos_scale == "published":
            every = labelled.table["mos"].to_numpy(float)
            mos = 1 + 4 * (every - every.min()) / max(np.ptp(every), 1e-12)
        found = []
        for rows in self._groups(labelled, split, seed):
            for first, second in _circles(rows, self.per_image):
                gap = mos[first] - mos[second]
                alike = abs(gap) < self.difference or gap == 0
                found.append((first, second, 0.5 if alike else float(gap > 0)))
        return found

    def _groups(self, labelled: LabelledSet, split: Split, seed: int) -> Iterator[list[int]]:
        """Rows of images that are paired with each other, in an order that is drawn."""
        for rows in labelled.ranked_together(labelled.rows(split)).values():
            parts = [rows]
            if self.within == "reference" or self.reference:
                parts = [part for _, part in rows.groupby("reference", sort=False)]
            for part in parts:
                names = dict(zip(part.index.tolist(), part["image"], strict=True))
                yield sorted(names, key=lambda row: drawn_number(seed, "pairs", names[row]))

    def _images(self, labelled: LabelledSet, key: str) -> list[tuple[str, ...]]:
        """By row of the table, its image, the reference before it where that is shown."""
        table = labelled.table
        widest = max(map(len, table["images"]), default=1)
        if self.reference and widest == 1:
            root = set_folder(labelled.config, labelled.key)
            declared = label_format(labelled.config.name, labelled.key)
            table = with_references(table, declared, root, labelled.image_root, labelled.key)
            widest = 2
        if widest != 1 + self.reference:
            raise ConfigError(
                [
                    f"{key}.reference={str(self.reference).lower()}: a row of {labelled.name} has "
                    f"{widest} images; compare rows of one image, or of a reference and an image "
                    f"({key}.reference=true)"
                ]
            )
        return list(table["images"])


def _circles(rows: list[int], per_image: int) -> Iterator[tuple[int, int]]:
    """Pairs of each row with its next neighbours on a circle, each pair once.

    Args:
        rows: in the order of the circle.
        per_image: pairs of a row; half of them, rounded up, go forward.
    """
    n = len(rows)
    seen: set[frozenset[int]] = set()
    for step in range(1, -(-per_image // 2) + 1):
        for place in range(n):
            pair = (rows[place], rows[(place + step) % n])
            if pair[0] != pair[1] and frozenset(pair) not in seen:
                seen.add(frozenset(pair))
                yield pair
