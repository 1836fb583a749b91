"""Bootstrap intervals of correlations, over images or over reference images.

What it does: resamples the images of one set (or its references, each with all its images) with
replacement, computes a metric in every draw, and reads an interval from the draws. Two predictors
on the same images are resampled together, which is what makes the interval of their difference
narrow. Spearman's and Pearson's correlation of all draws are computed as matrices: a draw is a
vector of counts, and the mid-rank of a value in a draw is the count below it plus half the count
at it, so the values are sorted once and not once in every draw.

The interval is the expanded percentile interval (Hesterberg 2015, "What teachers should know about
the bootstrap", section 5.1): percentiles at Phi(-sqrt(u / (u - 1)) t), where u is the number of
resampled units and t the quantile of Student's distribution with u - 1 degrees of freedom. The
plain percentiles are too narrow by about that factor when a set has 10 to 30 references: their
simulated coverage was 92 to 93 %, that of BCa intervals 87 to 91 %, that of these 93.5 to 96 %.

Not here: BCa and studentised intervals (above), and missing predictions (the caller's).

Shape legend: n images, u resampled units (images or references), D draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from vqr1.iqa.correlation import FloatArray, Vector, as_vector, obstacle, plcc, srcc

IntArray = npt.NDArray[np.int64]
Statistic = Callable[[FloatArray, FloatArray], float]
"""A metric of predictions [n] and targets [n]; NaN where it does not exist."""

MIN_UNITS = 5
"""Fewer images or references than this state too little about how metrics vary."""

_MAX_LOST = 0.05
"""Largest share of draws in which a metric may not exist (a constant draw of a tiny set)."""

_CHUNK = 2_000_000
"""Entries of one matrix of counts: 16 MB."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval, or the reason why there is none.

    Attributes:
        low: lower end; NaN where there is no interval.
        high: upper end; NaN where there is no interval.
        reason: why there is none; None where there is one.
        draws: D, the draws that it was read from, those without the metric included.
        lost: draws in which the metric does not exist; they are excluded.
    """

    low: float
    high: float
    reason: str | None = None
    draws: int = 0
    lost: int = 0

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def _no_interval(reason: str) -> Interval:
    return Interval(math.nan, math.nan, reason)


@dataclass(frozen=True)
class Units:
    """What is resampled: every image by itself, or every reference with all its images.

    Attributes:
        member: [n] int64 unit of each image.
        count: u, the number of units.
        name: "images" or "references", for messages and captions.
    """

    member: IntArray
    count: int
    name: str

    @classmethod
    def of(cls, n: int, clusters: Sequence[object] | npt.NDArray[np.object_] | None) -> Units:
        """Units of n images, by the cluster label of each where there are clusters.

        Raises:
            ValueError: the number of labels is not n.
        """
        if clusters is None:
            return cls(np.arange(n, dtype=np.int64), n, "images")
        if len(clusters) != n:
            raise ValueError(f"{len(clusters)} cluster labels for {n} images")
        numbers: dict[object, int] = {}
        member = [numbers.setdefault(label, len(numbers)) for label in clusters]
        return cls(np.asarray(member, dtype=np.int64), len(numbers), "references")


def resample_counts(units: Units, draws: int, seed: int) -> Iterator[FloatArray]:
    """How often each image appears in each draw, as blocks of rows [d, n] with D rows in all.

    Each draw takes u units with replacement. The same units and seed give the same draws.
    """
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // max(1, len(units.member)))
    by_image = units.count == len(units.member)
    for start in range(0, draws, rows):
        size = min(rows, draws - start)
        drawn = rng.integers(0, units.count, size=(size, units.count))
        drawn += np.arange(size)[:, None] * units.count
        flat = np.bincount(drawn.ravel(), minlength=size * units.count)
        counts = flat.reshape(size, units.count).astype(np.float64)
        yield counts if by_image else counts[:, units.member]


def _mid_ranks(values: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """Function from counts [d, n] to each image's mid-rank in each draw, [d, n]."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    group = np.empty(len(values), dtype=np.int64)
    group[order] = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(values)]))

    def ranks(counts: FloatArray) -> FloatArray:
        weight = np.add.reduceat(counts[:, order], starts, axis=1)
        middle = np.cumsum(weight, axis=1) - weight / 2
        return middle[:, group]

    return ranks


def _weighted_pearson(counts: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Pearson's correlation of x and y, [n] or [d, n], under weights `counts` [d, n]: [d]."""
    total = counts.sum(axis=1, keepdims=True)
    x = x - (counts * x).sum(axis=1, keepdims=True) / total
    y = y - (counts * y).sum(axis=1, keepdims=True) / total
    weighted = counts * x
    xy, xx = (weighted * y).sum(axis=1), (weighted * x).sum(axis=1)
    yy = (counts * y * y).sum(axis=1)
    # A draw of equal values leaves rounding in place of zero; such a draw has no correlation.
    scale = total[:, 0] * np.finfo(np.float64).eps * 64
    exists = (xx > scale * np.abs(x).max() ** 2) & (yy > scale * np.abs(y).max() ** 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(exists, np.clip(xy / np.sqrt(xx * yy), -1.0, 1.0), np.nan)


def _srcc_draws(pred: FloatArray, target: FloatArray, blocks: Iterator[FloatArray]) -> FloatArray:
    rank_pred, rank_target = _mid_ranks(pred), _mid_ranks(target)
    return np.concatenate(
        [_weighted_pearson(block, rank_pred(block), rank_target(block)) for block in blocks]
    )


def _plcc_draws(pred: FloatArray, target: FloatArray, blocks: Iterator[FloatArray]) -> FloatArray:
    # Standardised first, so that large offsets do not cancel.
    x, y = (pred - pred.mean()) / pred.std(), (target - target.mean()) / target.std()
    return np.concatenate([_weighted_pearson(block, x, y) for block in blocks])


def bootstrap_draws(
    statistic: Statistic,
    pred: Vector,
    target: Vector,
    *,
    clusters: Sequence[object] | npt.NDArray[np.object_] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> FloatArray:
    """The metric in each of D bootstrap draws.

    Args:
        statistic: the metric. `srcc` and `plcc` of `vqr1.iqa.correlation` are computed for all
            draws at once; any other function is called once for each draw with its images.
        pred: [n] predicted scores, finite.
        target: [n] MOS, finite.
        clusters: [n] label of the reference that each image derives from: references are then
            resampled, each with all its images. None resamples images.
        draws: D.
        seed: the same seed gives the same draws, also for another predictor on the same images.

    Returns:
        [D] metrics, NaN in draws where the metric does not exist.

    Raises:
        ValueError: the lengths differ.
    """
    x, y = as_vector(pred), as_vector(target)
    blocks = resample_counts(Units.of(len(x), clusters), draws, seed)
    if obstacle(x, y) or not draws:
        return np.full(draws, np.nan)
    if statistic is srcc:
        return _srcc_draws(x, y, blocks)
    if statistic is plcc:
        return _plcc_draws(x, y, blocks)
    values = []
    for block in blocks:
        for counts in block.astype(np.int64):
            rows = np.repeat(np.arange(len(x)), counts)
            values.append(statistic(x[rows], y[rows]))
    return np.asarray(values, dtype=np.float64)


def interval_of_draws(values: FloatArray, units: int, level: float = 0.95) -> Interval:
    """Expanded percentile interval of D metrics.

    Args:
        values: [D] metrics; draws in which the metric does not exist are NaN and excluded.
        units: u, how many units each draw resampled.
        level: confidence level in (0, 1).

    Returns:
        The interval, or the reason why there is none: fewer than five units, or a metric that
        does not exist in more than 5 % of the draws.
    """
    if units < MIN_UNITS:
        return _no_interval(f"{units} units to resample, at least {MIN_UNITS} are needed")
    kept = values[np.isfinite(values)]
    lost = len(values) - len(kept)
    if len(kept) < (1 - _MAX_LOST) * len(values) or not len(kept):
        return _no_interval(f"the metric does not exist in {lost} of {len(values)} draws")
    quantile = stats.t.ppf((1 + level) / 2, units - 1) * math.sqrt(units / (units - 1))
    tail = float(stats.norm.cdf(-quantile))
    low, high = np.quantile(kept, [tail, 1 - tail])
    return Interval(float(low), float(high), draws=len(values), lost=lost)


def paired_gain_interval(
    statistic: Statistic,
    before: Vector,
    after: Vector,
    target: Vector,
    *,
    clusters: Sequence[object] | npt.NDArray[np.object_] | None = None,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Confidence interval of `statistic(after) - statistic(before)` on the same images.

    Both predictors see the same draws, so what makes a draw easy for both cancels.

    Args:
        statistic: the metric, as for `bootstrap_draws`.
        before: [n] scores of the first predictor.
        after: [n] scores of the second.
        target: [n] MOS.
        clusters: [n] reference labels, or None, as for `bootstrap_draws`.
        draws: D.
        seed: seed of the draws.
        level: confidence level in (0, 1).

    Returns:
        The interval, or the reason why there is none (either metric does not exist).

    Raises:
        ValueError: the lengths differ.
    """
    x, y, z = as_vector(before), as_vector(after), as_vector(target)
    reason = obstacle(x, z) or obstacle(y, z)
    if reason:
        return _no_interval(reason)
    gains = bootstrap_draws(
        statistic, y, z, clusters=clusters, draws=draws, seed=seed
    ) - bootstrap_draws(statistic, x, z, clusters=clusters, draws=draws, seed=seed)
    return interval_of_draws(gains, Units.of(len(z), clusters).count, level)
