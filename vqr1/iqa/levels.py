r"""Five quality levels: soft labels, scores from level probabilities, and the losses on them.

Level order everywhere: excellent, good, fair, poor, bad, worth 5, 4, 3, 2, 1.

Soft labels (DeQA-Score, arXiv 2501.11561): a normal density of the MOS, or its mass over each
level, is moved to the right mean and sum,

    q = max(alpha p + beta, 0),  A = sum p,  B = sum x p,
    alpha = (m - 3) / (B - 3 A + 1e-9),  beta = (1 - alpha A) / 5

and where the standard deviation is small, or the mean of q is off, replaced by the linear
interpolation between the two nearest levels. The public formula gives the uniform distribution for
a MOS of exactly 3, where alpha is 0; it is kept.

Sources: DeQA-Score; Q-Align (2312.17090); Q-ReAlign. Everything is of pure numbers. Not here:
words of levels in a tokenizer, stages that train on them.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional

FloatArray = npt.NDArray[np.float64]

LEVELS = ("excellent", "good", "fair", "poor", "bad")
VALUES: FloatArray = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
"""What each level is worth on [1, 5]."""

_ADDED = 1e-9
_FRACTION = 1e-8
"""Added to the share of the upper level in an interpolation (public code)."""
FIDELITY_EPSILON = 1e-8


def level_number(mos: float, low: float, high: float, count: int = 5) -> int:
    """Number of the level of a MOS, the lowest is 0: `count` equal bins of [low, high].

    An upper edge is in the lower level (DeQA-Score, Q-Align).
    """
    return sum(mos > low + k / count * (high - low) for k in range(1, count))


def level_number_upper(mos: float, low: float, high: float, count: int = 5) -> int:
    """The same with a lower edge in the higher level (Q-ReAlign); limited to [low, high].

    A range without width has the lowest level only.
    """
    if high <= low:
        return 0
    place = math.floor((mos - low) / (high - low) * count + 1e-9)
    return min(max(place, 0), count - 1)


def level_of(mos: float, low: float, high: float) -> str:
    """The word of `level_number` among five."""
    return LEVELS[4 - level_number(mos, low, high)]


def level_of_upper(mos: float, low: float, high: float) -> str:
    """The word of `level_number_upper` among five."""
    return LEVELS[4 - level_number_upper(mos, low, high)]


def two_level_labels(mos: float) -> FloatArray:
    """[5] a MOS on [1, 5] as the mixture of its two nearest levels."""
    found = np.zeros(5)
    below = min(max(math.floor(mos - 1e-8), 1), 4)
    upper = min(mos - below, 1.0) * (1 - 2 * _FRACTION) + _FRACTION
    found[5 - below], found[4 - below] = 1 - upper, upper
    return found


def level_density(mean: float, std: float, kind: str = "pdf") -> FloatArray:
    """[5] p of the module header, of a MOS on [1, 5].

    Args:
        mean: the MOS.
        std: its standard deviation, above 0.
        kind: `pdf`: density at each level's value; `cdf`: mass of value - 1/2 to value + 1/2.
    """
    if kind == "pdf":
        return np.asarray(stats.norm.pdf(VALUES, mean, std))
    upper = stats.norm.cdf(VALUES + 0.5, mean, std)
    return np.asarray(upper - stats.norm.cdf(VALUES - 0.5, mean, std))


def soft_labels(
    mean: float, std: float, *, kind: str = "pdf", least_std: float = 0.2, tolerance: float = 0.1
) -> FloatArray:
    """[5] q of the module header.

    Args:
        mean: MOS on [1, 5].
        std: standard deviation on the same scale.
        kind: see `level_density`.
        least_std: below it two levels are interpolated.
        tolerance: largest distance of the labels' mean from the MOS, else two are interpolated.
    """
    if std < least_std:
        return two_level_labels(mean)
    p = level_density(mean, std, kind)
    total, first = p.sum(), (VALUES * p).sum()
    alpha = (mean - 3.0) / (first - 3.0 * total + _ADDED)
    q = np.maximum(alpha * p + (1.0 - alpha * total) / 5.0, 0.0)
    if abs((VALUES * q).sum() - mean) > tolerance:
        return two_level_labels(mean)
    return q


def level_score(logits: Tensor, low: float = 1.0, high: float = 5.0) -> Tensor:
    """[...] expected value of five levels at even steps of [low, high]; softmax of [..., 5].

    DeQA: 1 to 5. Q-Align: 0 to 1.
    """
    values = torch.linspace(high, low, 5, dtype=logits.dtype, device=logits.device)
    return logits.softmax(dim=-1) @ values


def level_fidelity_loss(
    first: Tensor, second: Tensor, mos: tuple[Tensor, Tensor], std: tuple[Tensor, Tensor]
) -> Tensor:
    """Mean of `level_fidelity_losses`; []."""
    return level_fidelity_losses(first, second, mos, std).mean()


def level_fidelity_losses(
    first: Tensor, second: Tensor, mos: tuple[Tensor, Tensor], std: tuple[Tensor, Tensor]
) -> Tensor:
    """[n] 1 - fidelity of pairs (DeQA).

    p = Phi((a - b) / sqrt 2) of scores, g = Phi((MOS_a - MOS_b) / sqrt(var_a + var_b + e)).

    Args:
        first: [n] scores of the pairs' first images, with gradient.
        second: [n] scores of their second images, with gradient.
        mos: [n] MOS of both.
        std: [n] standard deviations of both.
    """
    e = FIDELITY_EPSILON
    p = torch.special.ndtr((first - second) / math.sqrt(2.0))
    width = (std[0] ** 2 + std[1] ** 2 + e).sqrt()
    g = torch.special.ndtr((mos[0] - mos[1]) / width)
    return 1 - (p * g + e).sqrt() - ((1 - p) * (1 - g) + e).sqrt()


def level_kl_loss(logits: Tensor, levels: Tensor, labels: Tensor) -> Tensor:
    """Mean over images of KL(labels || softmax of the whole vocabulary); [].

    Args:
        logits: [n, V] at the place of the level's token.
        levels: [5] int64 tokens of the levels.
        labels: [n, 5] soft labels; all other tokens have the target 0.
    """
    return level_kl(logits.log_softmax(dim=-1)[:, levels], labels).mean()


def level_kl(logprobs: Tensor, labels: Tensor) -> Tensor:
    """[n] KL divergence of each image's distribution from its soft labels.

    Args:
        logprobs: [n, 5] log-probabilities of the levels' tokens among the whole vocabulary.
        labels: [n, 5] soft labels; all other tokens have the target 0.
    """
    return functional.kl_div(logprobs, labels, reduction="none").sum(dim=-1)


def binary_level_losses(
    first: Tensor, second: Tensor, mos: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """The losses of DeQA's ablations on the order of MOS alone; [] each.

    Args:
        first: [n] scores of the pairs' first images, with gradient.
        second: [n] scores of their second images, with gradient.
        mos: [n] MOS of both.

    Returns:
        Mean of 1 - sqrt(p), and mean of -log p, with p the probability of the true order.
    """
    p = torch.special.ndtr((first - second) / math.sqrt(2.0))
    right = torch.where(mos[0] > mos[1], p, 1 - p)
    return (1 - right.sqrt()).mean(), -right.log().mean()
