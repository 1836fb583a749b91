"""Correlations between predicted scores and MOS.

What it does: Spearman's rank correlation (SRCC), Pearson's linear correlation (PLCC) and Kendall's
tau-b (KRCC) of two vectors, each with its sign: a predictor that ranks the wrong way round gets a
negative metric. A metric that does not exist (fewer than three pairs, a constant vector, a value
that is not finite) is NaN together with the reason, never 0.

Not here: missing predictions. The caller decides which images enter and reports how many
do not.

Sources: Spearman 1904 with mid-ranks for ties; Kendall 1945, tau-b.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats

if TYPE_CHECKING:
    import torch

FloatArray = npt.NDArray[np.float64]
Vector: TypeAlias = "npt.ArrayLike | torch.Tensor | Sequence[float]"
"""n numbers: a numpy array, a tensor of any device, or a sequence."""

MIN_PAIRS = 3
"""With two pairs every correlation is +1, -1 or undefined: no information."""

_ROUNDING = 1e-13
"""Relative standard deviation below which differences within a vector are rounding."""


@dataclass(frozen=True)
class MetricValue:
    """A metric, or the reason why there is none.

    Attributes:
        value: the metric; NaN where it does not exist.
        reason: why it does not exist; None where it does.
    """

    value: float
    reason: str | None = None


def as_vector(values: Vector) -> FloatArray:
    """`values` as a one-dimensional float64 array.

    Raises:
        ValueError: the values have more than one dimension.
    """
    if hasattr(values, "detach"):
        # A tensor, known without importing PyTorch, which takes seconds.
        values = values.detach().cpu().double().numpy()
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"expected one dimension, found shape {array.shape}")
    return array


def is_constant(values: FloatArray) -> bool:
    """Whether all values are equal up to floating-point rounding."""
    low, high = float(values.min()), float(values.max())
    return high - low <= _ROUNDING * max(abs(low), abs(high))


def obstacle(pred: FloatArray, target: FloatArray) -> str | None:
    """Why `pred` [n] and `target` [n] have no correlation, or None if they have one.

    Raises:
        ValueError: the lengths differ.
    """
    if len(pred) != len(target):
        raise ValueError(f"{len(pred)} predictions but {len(target)} targets")
    if len(pred) < MIN_PAIRS:
        return f"{len(pred)} images, at least {MIN_PAIRS} are needed"
    for name, values in (("predictions", pred), ("MOS", target)):
        missing = int(np.count_nonzero(~np.isfinite(values)))
        if missing:
            return f"{missing} of {len(values)} {name} are not finite numbers"
        if is_constant(values):
            return f"all {name} are equal"
    return None


def pearson(pred: FloatArray, target: FloatArray) -> float:
    """Pearson's correlation of two finite, not constant vectors [n], within [-1, 1]."""
    x, y = pred - pred.mean(), target - target.mean()
    # Scaling first keeps the squares of very large or very small values representable.
    x, y = x / np.abs(x).max(), y / np.abs(y).max()
    return float(np.clip(x @ y / math.sqrt((x @ x) * (y @ y)), -1.0, 1.0))


def _metric(
    compute: Callable[[FloatArray, FloatArray], float], pred: Vector, target: Vector
) -> MetricValue:
    x, y = as_vector(pred), as_vector(target)
    reason = obstacle(x, y)
    return MetricValue(math.nan, reason) if reason else MetricValue(compute(x, y))


def _spearman(pred: FloatArray, target: FloatArray) -> float:
    return pearson(stats.rankdata(pred), stats.rankdata(target))


def _kendall(pred: FloatArray, target: FloatArray) -> float:
    # Only the statistic is used: the asymptotic p-value is the one that costs nothing.
    return float(stats.kendalltau(pred, target, method="asymptotic").statistic)


def srcc_value(pred: Vector, target: Vector) -> MetricValue:
    """Spearman's rank correlation in [-1, 1] with the reason where it is NaN."""
    return _metric(_spearman, pred, target)


def plcc_value(pred: Vector, target: Vector) -> MetricValue:
    """Pearson's linear correlation in [-1, 1] with the reason where it is NaN."""
    return _metric(pearson, pred, target)


def krcc_value(pred: Vector, target: Vector) -> MetricValue:
    """Kendall's tau-b in [-1, 1] with the reason where it is NaN."""
    return _metric(_kendall, pred, target)


def srcc(pred: Vector, target: Vector) -> float:
    """Spearman's rank correlation, ties at their mid-rank.

    Args:
        pred: [n] predicted scores.
        target: [n] MOS, higher is better.

    Returns:
        A float in [-1, 1]; NaN for fewer than three pairs, a constant vector or a value that is
        not finite (`srcc_value` states which).

    Raises:
        ValueError: the lengths differ or a vector has more than one dimension.

    >>> round(srcc([1.0, 2.0, 4.0, 3.0], [10.0, 20.0, 30.0, 40.0]), 6)
    0.8
    """
    return srcc_value(pred, target).value


def plcc(pred: Vector, target: Vector) -> float:
    """Pearson's linear correlation; arguments, NaN rule and errors as for `srcc`.

    >>> plcc([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])
    1.0
    """
    return plcc_value(pred, target).value


def krcc(pred: Vector, target: Vector) -> float:
    """Kendall's tau-b; arguments, NaN rule and errors as for `srcc`.

    >>> round(krcc([1.0, 2.0, 4.0, 3.0], [10.0, 20.0, 30.0, 40.0]), 6)
    0.666667
    """
    return krcc_value(pred, target).value
