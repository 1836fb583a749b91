r"""Comparing images whose scores are uncertain: pairs, and ranking a whole folder.

Thurstone's model, case III: the quality that the model sees in image i is a normal variable with
the image's mean score mu_i and variance (a sigma_i)^2, independent of every other image, so that

    P(i, j) = P(i better than j) = Phi( (mu_i - mu_j) / sqrt(a^2 (sigma_i^2 + sigma_j^2) + gamma) )

`thurstone.comparison_probabilities` is the reward's asymmetric form, one answer against a mean;
here both sides are distributions, and P(i, j) + P(j, i) = 1. sigma comes from K answers (unbiased)
or from the distribution over the answer's numbers. `a` corrects a sigma that is too small or too
large to be taken at its word, and gamma, half of it with each image, is the variance that no sigma
covers; `fit_comparison` finds both from pairs whose order is known. The published form has a =
1 and gamma = 1e-6, which only keeps two certain images of the same score comparable.

i is ranked before j where P(i, j) > 1/2, that is where mu_i > mu_j, whatever the variances.

Shapes: n images; m pairs. Everything is float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_ndtr, ndtr

from vqr1.iqa.correlation import FloatArray
from vqr1.iqa.gamma import GAMMA

_PROBABILITIES = 2**20
"""Of the pairwise matrix, how many are held at a time; a row at least."""
_DRAWS = 64
"""Draws of all ranks that are held at a time."""


def preference_matrix(
    mean: FloatArray,
    std: FloatArray,
    *,
    std_scale: float = 1.0,
    gamma: float = GAMMA,
    rows: slice = slice(None),
) -> FloatArray:
    """P(i, j) of the module header for all pairs.

    Args:
        mean: [n] mean scores.
        std: [n] standard deviations, at least 0.
        std_scale: a, above 0.
        gamma: added to the summed variances, above 0.
        rows: the images i that are wanted; all by default.

    Returns:
        [n, n] (or the rows asked for) in [0, 1]; 1/2 on the diagonal.
    """
    mean = np.asarray(mean, dtype=np.float64)
    variance = (std_scale * np.asarray(std, dtype=np.float64)) ** 2
    deviation = np.sqrt(variance[rows, None] + variance[None, :] + gamma)
    return np.asarray(ndtr((mean[rows, None] - mean[None, :]) / deviation))


def preference_blocks(
    mean: FloatArray, std: FloatArray, *, std_scale: float = 1.0, gamma: float = GAMMA
) -> Iterator[FloatArray]:
    """`preference_matrix` from its first row to its last, [rows, n] at a time."""
    rows = max(1, _PROBABILITIES // max(1, len(mean)))
    for start in range(0, len(mean), rows):
        block = slice(start, start + rows)
        yield preference_matrix(mean, std, std_scale=std_scale, gamma=gamma, rows=block)


def win_rates(
    mean: FloatArray, std: FloatArray, *, std_scale: float = 1.0, gamma: float = GAMMA
) -> FloatArray:
    """[n] probability that an image is better than another one drawn from the rest; NaN for n=1."""
    n = len(mean)
    if n < 2:
        return np.full(n, math.nan)
    blocks = preference_blocks(mean, std, std_scale=std_scale, gamma=gamma)
    return (np.concatenate([block.sum(axis=1) for block in blocks]) - 0.5) / (n - 1)


def rank_intervals(
    mean: FloatArray,
    std: FloatArray,
    *,
    std_scale: float = 1.0,
    gamma: float = GAMMA,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Ranks that an image takes when the qualities of the module header are drawn.

    Args:
        mean: [n] mean scores.
        std: [n] standard deviations.
        std_scale: a.
        gamma: see the module header.
        level: share of the draws that an interval holds, in (0, 1).
        draws: number of draws.
        seed: of the draws.

    Returns:
        Lowest and highest rank of each image, [n] int64 each, 1 is the best.
    """
    mean = np.asarray(mean, dtype=np.float64)
    deviation = np.sqrt((std_scale * np.asarray(std, dtype=np.float64)) ** 2 + gamma / 2)
    rng = np.random.default_rng(seed)
    places = np.arange(1, len(mean) + 1)
    # The order statistics of `np.quantile(method="inverted_cdf")`, of which nothing but the tails
    # is kept: all draws of a million images would take gigabytes.
    tail = (1 - level) / 2
    from_lowest = max(math.ceil(draws * tail - 1), 0) + 1
    from_highest = draws - max(math.ceil(draws * (1 - tail) - 1), 0)
    lowest = highest = np.empty((0, len(mean)), dtype=np.int32)
    for start in range(0, draws, _DRAWS):
        ranks = np.empty((min(_DRAWS, draws - start), len(mean)), dtype=np.int32)
        for row in ranks:
            quality = mean + deviation * rng.standard_normal(len(mean))
            row[np.argsort(-quality, kind="stable")] = places
        lowest = _smallest(np.concatenate([lowest, ranks]), from_lowest)
        highest = -_smallest(-np.concatenate([highest, ranks]), from_highest)
    return lowest.max(axis=0).astype(np.int64), highest.min(axis=0).astype(np.int64)


def _smallest(values: np.ndarray, count: int) -> np.ndarray:
    """The smallest values [count, n] of the columns of [m, n], unordered; all where m is less."""
    if len(values) <= count:
        return values
    return np.partition(values, count - 1, axis=0)[:count]


def ranks_of(mean: FloatArray) -> np.ndarray:
    """[n] int64 rank by mean score, 1 is the best; equal scores share the better rank."""
    ordered = np.sort(-np.asarray(mean, dtype=np.float64))
    return np.searchsorted(ordered, -np.asarray(mean, dtype=np.float64), side="left") + 1


@dataclass(frozen=True)
class PairOutcomes:
    """Pairs of images whose true order is known.

    Attributes:
        difference: [m] mu_i - mu_j.
        variance: [m] sigma_i^2 + sigma_j^2, unscaled.
        won: [m] 1 where i is truly better, 0 where j is; between them where people differ.
    """

    difference: FloatArray
    variance: FloatArray
    won: FloatArray

    def probabilities(self, std_scale: float = 1.0, gamma: float = GAMMA) -> FloatArray:
        """[m] P(i, j)."""
        deviation = np.sqrt(std_scale**2 * self.variance + gamma)
        return np.asarray(ndtr(self.difference / deviation))

    def log_loss(self, std_scale: float = 1.0, gamma: float = GAMMA) -> float:
        """Mean negative log-likelihood of the true orders, in nats; log 2 is a coin's."""
        z = self.difference / np.sqrt(std_scale**2 * self.variance + gamma)
        return float(-np.mean(self.won * log_ndtr(z) + (1.0 - self.won) * log_ndtr(-z)))


def pair_outcomes(mean: FloatArray, std: FloatArray, mos: FloatArray) -> PairOutcomes:
    """All pairs i < j of images with different MOS.

    Args:
        mean: [n] mean scores.
        std: [n] standard deviations.
        mos: [n] MOS, higher is better.
    """
    i, j = np.triu_indices(len(mean), k=1)
    distinct = mos[i] != mos[j]
    i, j = i[distinct], j[distinct]
    return PairOutcomes(
        np.asarray(mean[i] - mean[j], dtype=np.float64),
        np.asarray(std[i] ** 2 + std[j] ** 2, dtype=np.float64),
        (mos[i] > mos[j]).astype(np.float64),
    )


def fit_comparison(pairs: PairOutcomes) -> tuple[float, float]:
    """The scale `a` and the gamma that make the true orders most likely.

    Both are searched on a logarithmic scale (Nelder-Mead from a = 1, gamma = 0.01).

    Returns:
        `a` in [1/1000, 1000] and gamma in [1e-8, 100].
    """
    found = minimize(
        lambda logs: pairs.log_loss(math.exp(logs[0]), math.exp(logs[1])),
        x0=np.log([1.0, 1e-2]),
        method="Nelder-Mead",
        bounds=np.log([(1e-3, 1e3), (1e-8, 1e2)]),
    )
    return float(math.exp(found.x[0])), float(math.exp(found.x[1]))


@dataclass(frozen=True)
class ReliabilityBin:
    """Pairs with similar predicted probability.

    Attributes:
        pairs: how many.
        predicted: their mean predicted probability.
        observed: share of them whose true order is the predicted one.
    """

    pairs: int
    predicted: float
    observed: float


def reliability(
    probability: FloatArray, won: FloatArray, bins: int = 10
) -> tuple[ReliabilityBin, ...]:
    """The reliability curve: how often i is better where P(i, j) is p.

    Every pair counts in both directions, so the curve is symmetric about (1/2, 1/2); the bins
    divide [0, 1] evenly, and empty ones are excluded.

    Args:
        probability: [m] P(i, j).
        won: [m] 1 where i is truly better, 0 where j is.
        bins: number of bins.
    """
    p = np.concatenate([probability, 1 - probability])
    y = np.concatenate([won, 1 - won])
    place = np.minimum((p * bins).astype(np.int64), bins - 1)
    result = []
    for b in range(bins):
        inside = place == b
        if inside.any():
            result.append(
                ReliabilityBin(int(inside.sum()), float(p[inside].mean()), float(y[inside].mean()))
            )
    return tuple(result)


def calibration_error(curve: tuple[ReliabilityBin, ...]) -> float:
    """Expected calibration error: mean |predicted - observed| over the bins, weighted by pairs."""
    total = sum(bin_.pairs for bin_ in curve)
    return sum(b.pairs * abs(b.predicted - b.observed) for b in curve) / total
