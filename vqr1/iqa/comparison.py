"""Whether two or more predictors of the same images differ.

What it does: paired bootstrap test of a gain, Steiger's and Meng's tests of two correlations that
share the MOS, win counts over image pairs, Holm's correction of many tests, and letters
that mark groups of predictors without a significant difference.

Which test to trust: the two analytic tests take images as independent and metrics as Pearson
correlations (for rank correlations they are an approximation); where images share references only
the bootstrap over references is right.

Not here: Bayesian comparisons, and corrections that assume independent tests.

Sources: Steiger 1980 (Psychological Bulletin 87, eq. 3, 11 and 14, pooled correlation); Meng,
Rosenthal and Rubin 1992 (Psychological Bulletin 111, eq. 1 to 3); Holm 1979; Piepho 2004 for the
letters (insert and absorb).

Shape legend: n images, m predictors.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from vqr1.iqa.bootstrap import Interval, Statistic, Units, bootstrap_draws, interval_of_draws
from vqr1.iqa.correlation import MetricValue, Vector, as_vector, obstacle

_BLOCK = 4_000_000
"""Image pairs compared at once."""


@dataclass(frozen=True)
class DependentTest:
    """Test of two correlations that share a variable.

    Attributes:
        z: standard normal deviate, positive where the first correlation is larger.
        p: two-sided probability under equal correlations.
        reason: why there is no test; None where there is one.
    """

    z: float
    p: float
    reason: str | None = None


def _dependent(z: float) -> DependentTest:
    return DependentTest(z, float(2 * stats.norm.sf(abs(z))))


def _no_test(r1: float, r2: float, r12: float, n: int) -> str | None:
    if n < 4:
        return f"{n} images, at least 4 are needed"
    if not all(math.isfinite(r) for r in (r1, r2, r12)):
        return "a correlation does not exist"
    if max(abs(r1), abs(r2)) >= 1 or r12 <= -1:
        return "a correlation is exactly 1 or -1"
    if r12 >= 1:
        return "the two predictors agree perfectly"
    return None


def steiger_test(r1: float, r2: float, r12: float, n: int) -> DependentTest:
    """Steiger's Z for correlations of two predictors with the same MOS.

    Args:
        r1: correlation of the first predictor with the MOS.
        r2: correlation of the second.
        r12: correlation of the two predictors with each other.
        n: images.
    """
    reason = _no_test(r1, r2, r12, n)
    if reason:
        return DependentTest(math.nan, math.nan, reason)
    mean = (r1 + r2) / 2
    psi = r12 * (1 - 2 * mean**2) - mean**2 * (1 - 2 * mean**2 - r12**2) / 2
    covariance = psi / (1 - mean**2) ** 2
    if not covariance < 1:
        return DependentTest(math.nan, math.nan, "the three correlations contradict each other")
    return _dependent((math.atanh(r1) - math.atanh(r2)) * math.sqrt((n - 3) / (2 - 2 * covariance)))


def meng_test(r1: float, r2: float, r12: float, n: int) -> DependentTest:
    """Meng's Z for correlations of two predictors with the same MOS.

    Arguments as for `steiger_test`. Steadier than Steiger's where the two correlations lie far
    apart.
    """
    reason = _no_test(r1, r2, r12, n)
    if reason:
        return DependentTest(math.nan, math.nan, reason)
    square = (r1**2 + r2**2) / 2
    f = min(1.0, (1 - r12) / (2 * (1 - square)))
    h = (1 - f * square) / (1 - square)
    return _dependent((math.atanh(r1) - math.atanh(r2)) * math.sqrt((n - 3) / (2 * (1 - r12) * h)))


@dataclass(frozen=True)
class GainTest:
    """Paired bootstrap of the difference of a metric between two predictors.

    Attributes:
        gain: metric of the first minus metric of the second, with the reason where it is NaN.
        interval: confidence interval of the gain.
        p: two-sided probability under no difference: gain over its bootstrap standard error,
            Student's distribution with one degree of freedom less than resampled units. NaN where
            there is no interval.
    """

    gain: MetricValue
    interval: Interval
    p: float


def paired_bootstrap_test(
    statistic: Statistic,
    first: Vector,
    second: Vector,
    target: Vector,
    *,
    clusters: Sequence[object] | None = None,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> GainTest:
    """Test whether `statistic(first) - statistic(second)` differs from 0.

    Args:
        statistic: the metric, as for `vqr1.iqa.bootstrap.bootstrap_draws`.
        first: [n] scores of the first predictor.
        second: [n] scores of the second, on the same images.
        target: [n] MOS.
        clusters: [n] reference labels, or None to resample images.
        draws: bootstrap draws.
        seed: seed of the draws.
        level: confidence level of the interval.
    """
    x, y, z = as_vector(first), as_vector(second), as_vector(target)
    reason = obstacle(x, z) or obstacle(y, z)
    if reason:
        return GainTest(
            MetricValue(math.nan, reason), Interval(math.nan, math.nan, reason), math.nan
        )
    gain = statistic(x, z) - statistic(y, z)
    drawn = [
        bootstrap_draws(statistic, scores, z, clusters=clusters, draws=draws, seed=seed)
        for scores in (x, y)
    ]
    gains = drawn[0] - drawn[1]
    units = Units.of(len(z), clusters).count
    interval = interval_of_draws(gains, units, level)
    if interval.reason:
        return GainTest(MetricValue(gain), interval, math.nan)
    error = float(np.nanstd(gains, ddof=1))
    if error == 0:
        return GainTest(MetricValue(gain), interval, 1.0 if gain == 0 else 0.0)
    return GainTest(
        MetricValue(gain), interval, float(2 * stats.t.sf(abs(gain) / error, units - 1))
    )


@dataclass(frozen=True)
class PairWins:
    """Which of two predictors orders image pairs as the MOS do.

    Attributes:
        pairs: image pairs with different MOS.
        first_only: pairs that the first orders better than the second (right against tied or
            wrong, tied against wrong).
        second_only: pairs that the second orders better.
        first_accuracy: share of pairs that the first orders rightly, its ties counted half.
        second_accuracy: the same of the second.
        win_rate: first_only / (first_only + second_only); NaN with the reason where no pair
            distinguish them.
    """

    pairs: int
    first_only: int
    second_only: int
    first_accuracy: float
    second_accuracy: float
    win_rate: MetricValue


def pair_wins(first: Vector, second: Vector, target: Vector) -> PairWins:
    """Compare two predictors over all n (n - 1) / 2 image pairs.

    Args:
        first: [n] finite scores of the first predictor.
        second: [n] finite scores of the second.
        target: [n] finite MOS.

    Raises:
        ValueError: the lengths differ.
    """
    x, y, z = as_vector(first), as_vector(second), as_vector(target)
    if not len(x) == len(y) == len(z):
        raise ValueError(f"{len(x)} and {len(y)} scores for {len(z)} images")
    pairs = wins = losses = 0
    credit = [0.0, 0.0]
    rows = max(1, _BLOCK // max(1, len(z)))
    for start in range(0, len(z), rows):
        stop = min(start + rows, len(z))
        # Pairs (i, j) with j > i only, each counted once.
        later = np.arange(len(z)) > np.arange(start, stop)[:, None]
        order = np.sign(z[start:stop, None] - z)
        counted = later & (order != 0)
        right = [(order * np.sign(scores[start:stop, None] - scores))[counted] for scores in (x, y)]
        pairs += int(counted.sum())
        wins += int((right[0] > right[1]).sum())
        losses += int((right[0] < right[1]).sum())
        for side in (0, 1):
            credit[side] += float((1 + right[side]).sum()) / 2
    if wins + losses:
        rate = MetricValue(wins / (wins + losses))
    else:
        rate = MetricValue(math.nan, "no pair of images distinguishes the two")
    accuracy = [value / pairs if pairs else math.nan for value in credit]
    return PairWins(pairs, wins, losses, accuracy[0], accuracy[1], rate)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted probabilities, in the order given.

    A NaN stays NaN and still counts as a test, which keeps the others conservative.
    """
    order = sorted(
        range(len(p_values)), key=lambda i: math.inf if math.isnan(p_values[i]) else p_values[i]
    )
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        if math.isnan(p_values[i]):
            break
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def difference_letters(different: npt.NDArray[np.bool_]) -> list[str]:
    """Letters for m predictors: two that share a letter do not differ significantly.

    Args:
        different: [m, m] symmetric, True where two predictors differ; predictors best first, so
            that the best group gets the letter a.

    Returns:
        m strings of letters, the fewest that insert and absorb finds.
    """
    m = len(different)
    groups = [frozenset(range(m))]
    for i in range(m):
        for j in range(i + 1, m):
            if not different[i, j]:
                continue
            split = [part for g in groups for part in (_without(g, i, j) or [g])]
            # A group inside another one states nothing of its own.
            groups = [g for g in dict.fromkeys(split) if not any(g < other for other in split)]
    groups.sort(key=sorted)
    names = [_letter(number) for number in range(len(groups))]
    return [
        "".join(name for name, g in zip(names, groups, strict=True) if i in g) for i in range(m)
    ]


def _without(group: frozenset[int], i: int, j: int) -> list[frozenset[int]]:
    return [group - {i}, group - {j}] if i in group and j in group else []


def _letter(number: int) -> str:
    """Letters a, b, ..., z, then a1, b1, ..."""
    turn, place = divmod(number, 26)
    return string.ascii_lowercase[place] + (str(turn) if turn else "")
