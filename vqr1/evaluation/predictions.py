"""Scored images: the one record that every metric, table and plot is computed from.

What it does: holds the parsed answers of n images of one or several data sets, and turns an
image's answers into its score. The rule: an image's score is the mean of its valid answers
(`valid_mean`), or exists only where all its answers are valid (`all_valid`). An answer that cannot
be parsed never becomes a number; an image without a score is NaN, and whoever leaves it out of a
metric reports how many there are.

Not here: asking a model (`vqr1.inference`), metrics (`vqr1.evaluation.summary`) and
files (`vqr1.evaluation.prediction_file`).

Shape legend: n images, S answers an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from vqr1.errors import DataError
from vqr1.iqa.bootstrap import MIN_UNITS
from vqr1.iqa.correlation import FloatArray
from vqr1.iqa.preferences import StatedPairs

T = TypeVar("T")
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
ScoreRule = Literal["valid_mean", "all_valid"]
"""Which images have a score: those with a valid answer, or those with valid answers only."""
Resample = Literal["auto", "images", "references"]
"""What a bootstrap draws: `auto` takes references where images share at least `MIN_UNITS`."""


@dataclass(frozen=True)
class Predictions:
    """Scored images, row by row: what every metric is computed from.

    Attributes:
        images: n image names, relative to their data set's image root.
        datasets: n names of the data set that each image belongs to.
        index: [n] int64 row of each image in its set's label table.
        mos: [n] float64 MOS, higher is better.
        scores: [n, S] float64 parsed scores, NaN where not valid.
        valid: [n, S] bool, a score could be parsed.
        format_compliant: [n, S] bool, the whole response has the required format.
        texts: n lists of S responses ("" where a score came without text).
        references: n names of the reference each image derives from, None where there is none.
        distortions: n names of the distortion, None where unknown.
        lost: [n] float64 mode `expected`: probability of answers that are no number of the grammar,
            over which the expectation is not taken; NaN where unknown, and in other modes.
        std: [n] float64 standard deviation of the single ratings on the scale of `mos`, NaN where
            unknown.
        decoded_at: n times width and height (`6000x5000`) that an image with too many pixels was
            decoded at; None where it was decoded whole.
        pairs: by data set, stated preferences between images of its label table, by `index`; empty
            where pairs are not evaluated.
    """

    images: tuple[str, ...]
    datasets: tuple[str, ...]
    index: IntArray
    mos: FloatArray
    scores: FloatArray
    valid: BoolArray
    format_compliant: BoolArray
    texts: tuple[tuple[str, ...], ...]
    references: tuple[str | None, ...] = ()
    distortions: tuple[str | None, ...] = ()
    lost: FloatArray = field(default_factory=lambda: np.empty(0))
    std: FloatArray = field(default_factory=lambda: np.empty(0))
    decoded_at: tuple[str | None, ...] = ()
    pairs: Mapping[str, StatedPairs] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.images)
        for name in ("references", "distortions", "decoded_at"):
            if not getattr(self, name):
                object.__setattr__(self, name, (None,) * n)
        if not len(self.lost):
            object.__setattr__(self, "lost", np.full(n, np.nan))
        if not len(self.std):
            object.__setattr__(self, "std", np.full(n, np.nan))
        for name in (
            "datasets", "index", "mos", "scores", "valid", "texts", "references", "lost", "std",
            "decoded_at",
        ):  # fmt: skip
            if len(getattr(self, name)) != n:
                raise ValueError(f"{name} has {len(getattr(self, name))} rows for {n} images")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def samples(self) -> int:
        """S, answers an image."""
        return int(self.scores.shape[1])

    def image_scores(self, rule: ScoreRule = "valid_mean") -> FloatArray:
        """[n] score of each image by `rule`; NaN where it has none."""
        count = self.valid.sum(axis=1)
        enough = count == self.samples if rule == "all_valid" else count > 0
        total = np.where(self.valid, self.scores, 0.0).sum(axis=1)
        return np.where(enough & (count > 0), total / np.maximum(count, 1), np.nan)

    def score_std(self) -> FloatArray:
        """[n] unbiased standard deviation of each image's valid scores; NaN below two of them."""
        count = self.valid.sum(axis=1)
        mean = self.image_scores()
        squares = np.where(self.valid, (self.scores - mean[:, None]) ** 2, 0.0).sum(axis=1)
        return np.where(count > 1, np.sqrt(squares / np.maximum(count - 1, 1)), np.nan)

    def rows(self, keep: BoolArray | IntArray) -> Predictions:
        """The rows that a mask [n] or an array of row numbers selects."""
        numbers = np.flatnonzero(keep) if keep.dtype == np.bool_ else keep

        def pick(values: Sequence[T]) -> tuple[T, ...]:
            return tuple(values[i] for i in numbers)

        return replace(
            self,
            images=pick(self.images),
            datasets=pick(self.datasets),
            index=self.index[numbers],
            mos=self.mos[numbers],
            scores=self.scores[numbers],
            valid=self.valid[numbers],
            format_compliant=self.format_compliant[numbers],
            texts=pick(self.texts),
            references=pick(self.references),
            distortions=pick(self.distortions),
            lost=self.lost[numbers],
            std=self.std[numbers],
            decoded_at=pick(self.decoded_at),
        )

    def by_dataset(self) -> dict[str, Predictions]:
        """The rows of each data set, sets in order of appearance."""
        names = np.asarray(self.datasets, dtype=object)
        return {name: self.rows(names == name) for name in dict.fromkeys(self.datasets)}

    def row_pairs(self) -> StatedPairs | None:
        """The stated pairs among the rows of ONE set, by row; None where the set has none."""
        stated = self.pairs.get(self.datasets[0]) if self.datasets else None
        if stated is None:
            return None
        table = int(max(self.index.max(initial=0), stated.second.max(initial=0))) + 1
        places = np.full(table, -1, dtype=np.int64)
        places[self.index] = np.arange(len(self))
        return stated.renumbered(places)

    def clusters(self) -> tuple[str, ...] | None:
        """The n reference labels if every image has one and some share one, else None."""
        known = tuple(name for name in self.references if name is not None)
        return known if len(set(known)) < len(known) == len(self) else None


def with_pairs(predictions: Predictions, pairs: Mapping[str, StatedPairs]) -> Predictions:
    """Predictions whose pairs are evaluated too.

    Args:
        predictions: of any sets; `index` is the row in the set's label table.
        pairs: by data set, by row of that table.
    """
    return replace(predictions, pairs=pairs)


def bootstrap_clusters(
    scored: Predictions, resample: Resample = "auto"
) -> tuple[tuple[str, ...] | None, str | None]:
    """What every bootstrap of one set's rows draws.

    Args:
        scored: n rows of one set that enter the metric.
        resample: the rule.

    Returns:
        The n reference labels to draw by, or None to draw images; and what a reader must know
        about that choice, or None.
    """
    shared = scored.clusters()
    if resample == "images" or (resample == "auto" and shared is None):
        return None, None
    if shared is None:
        return None, "intervals are over images: no reference is shared by several images"
    count = len(set(shared))
    if resample == "auto" and count < MIN_UNITS:
        return None, (
            f"intervals are over images, since {count} references are too few to resample; they "
            "state how the metric varies among images of these references only"
        )
    return shared, None


NOTHING = (
    "no image could be evaluated: every one is missing or does not decode, and is skipped "
    "(on_bad_image=skip); repair the files, or choose another split"
)
"""What is reported where nothing is left."""


def concatenate(parts: Sequence[Predictions]) -> Predictions:
    """The rows of all parts, in order.

    Raises:
        DataError: there is no part: every image was skipped.
        ValueError: the parts differ in the number of answers an image.
    """
    if not parts:
        raise DataError(NOTHING)
    return Predictions(
        images=tuple(name for part in parts for name in part.images),
        datasets=tuple(name for part in parts for name in part.datasets),
        index=np.concatenate([part.index for part in parts]),
        mos=np.concatenate([part.mos for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        valid=np.concatenate([part.valid for part in parts]),
        format_compliant=np.concatenate([part.format_compliant for part in parts]),
        texts=tuple(texts for part in parts for texts in part.texts),
        references=tuple(name for part in parts for name in part.references),
        distortions=tuple(name for part in parts for name in part.distortions),
        lost=np.concatenate([part.lost for part in parts]),
        std=np.concatenate([part.std for part in parts]),
        decoded_at=tuple(size for part in parts for size in part.decoded_at),
        pairs={name: pairs for part in parts for name, pairs in part.pairs.items()},
    )
