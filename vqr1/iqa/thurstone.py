r"""Thurstone's comparison model and the fidelity reward built on it.

Source: VisualQuality-R1 (arXiv 2505.14460) and its public training code. With K scores q_k(x) of
each image x, their mean mu(x) and unbiased variance sigma^2(x):

    p_k(i, j) = Phi( (q_k(i) - mu(j)) / sqrt(sigma^2(i) + sigma^2(j) + gamma) )
    p(i, j)   = 1, 1/2 or 0 as MOS_i is above, equal to or below MOS_j
    r_k(i)    = mean over j != i of  sqrt(p p_k + eps) + sqrt((1 - p)(1 - p_k) + eps)

and the two rewards that the paper compares with it (its Table 4):

    probability   mean over j != i of  p p_k + (1 - p)(1 - p_k)
    binary        mean over j != i of  1[ sign(q_k(i) - mu(j)) = sign(MOS_i - MOS_j) ]

Different from the public code in one point: an answer that could not be parsed enters neither mean
nor variance and earns 0, where the public code invents a score. j != i is meant of images: where
one stands in a pool twice (`images`), it is not compared with its copy. Shapes: see `vqr1.records`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vqr1.iqa.gamma import GAMMA as GAMMA

FIDELITY_EPSILON = 1e-6
"""Added inside both square roots of the fidelity (public code)."""


@dataclass(frozen=True)
class ScoreStatistics:
    """Per-image statistics over the valid scores.

    Attributes:
        mean: [B] mean score, NaN without a valid score.
        variance: [B] unbiased variance, NaN with fewer than two valid scores.
        comparable: [B] bool, True with at least two valid scores: only then is there a
            distribution that another image can be compared with.
    """

    mean: Tensor
    variance: Tensor
    comparable: Tensor


def score_statistics(scores: Tensor, valid: Tensor | None = None) -> ScoreStatistics:
    """Mean and unbiased variance over the valid scores of each image.

    Args:
        scores: [B, K] scores; entries that are not valid may hold anything, NaN included.
        valid: [B, K] bool; None takes every finite score as valid.
    """
    valid = torch.isfinite(scores) if valid is None else valid.bool()
    values = torch.where(valid, scores, torch.zeros_like(scores))
    count = valid.sum(dim=1)
    mean = values.sum(dim=1) / count
    squares = torch.where(valid, (values - mean[:, None]) ** 2, torch.zeros_like(values))
    comparable = count >= 2
    variance = squares.sum(dim=1) / (count - 1)
    return ScoreStatistics(mean, variance.masked_fill(~comparable, float("nan")), comparable)


def comparison_probabilities(
    scores: Tensor,
    statistics: ScoreStatistics,
    *,
    gamma: float = GAMMA,
    variance_floor: float = 0.0,
    fixed_variance: float | None = None,
) -> Tensor:
    """p_k(i, j): probability that response k of image i beats image j.

    Args:
        scores: [B, K] scores.
        statistics: their per-image statistics.
        gamma: added to the summed variances.
        variance_floor: smallest sigma^2 of an image; 0 is the published rule. Above 0 it keeps the
            probability from becoming a step function when the K scores agree.
        fixed_variance: sigma^2 of every image (the paper's fixed-variance ablation uses 1).

    Returns:
        [B, K, B]; NaN where response or opponent has no statistics.
    """
    if fixed_variance is not None:
        variance = torch.full_like(statistics.variance, fixed_variance)
    else:
        variance = statistics.variance.clamp_min(variance_floor)
    std = (variance[:, None] + variance[None, :] + gamma).sqrt()  # [B, B]
    difference = scores[:, :, None] - statistics.mean[None, None, :]
    return torch.special.ndtr(difference / std[:, None, :])


def true_preferences(mos: Tensor) -> Tensor:
    """[B, B]: 1, 1/2 or 0 as MOS_i is above, equal to or below MOS_j."""
    return (torch.sign(mos[:, None] - mos[None, :]) + 1.0) / 2.0


def mean_over_opponents(
    pairwise: Tensor,
    statistics: ScoreStatistics,
    valid: Tensor,
    images: Tensor | None = None,
    known: Tensor | None = None,
) -> Tensor:
    """Average a pairwise reward over the comparable opponents j != i.

    Args:
        pairwise: [B, K, B] reward of response k of image i against image j.
        statistics: per-image statistics that state who is comparable.
        valid: [B, K] bool, the responses that have a score.
        images: [B] a number for each image, equal for copies of one image, which are no opponents
            of each other; None: all differ.
        known: [B, B] bool, the pairs of which an order is known; None: all.

    Returns:
        [B, K]; 0 for invalid responses, for images that are not comparable themselves, and where
        no comparable opponent exists.
    """
    if images is None:
        images = torch.arange(len(statistics.comparable), device=pairwise.device)
    opponents = statistics.comparable[None, :] & (images[:, None] != images[None, :])
    if known is not None:
        opponents = opponents & known
    total = torch.where(opponents[:, None, :], pairwise, torch.zeros_like(pairwise)).sum(dim=2)
    mean = total / opponents.sum(dim=1).clamp_min(1)[:, None]
    earned = valid.bool() & statistics.comparable[:, None]
    return torch.where(earned, mean, torch.zeros_like(mean))


def fidelity_reward(
    scores: Tensor,
    mos: Tensor,
    valid: Tensor | None = None,
    *,
    gamma: float = GAMMA,
    variance_floor: float = 0.0,
    fixed_variance: float | None = None,
    images: Tensor | None = None,
) -> Tensor:
    """Fidelity between predicted and true preference, averaged over the other images.

    Args:
        scores: [B, K] scores on any common scale.
        mos: [B] MOS of the same data set, higher is better; only their order counts.
        valid: [B, K] bool; None takes every finite score as valid.
        gamma: see `comparison_probabilities`.
        variance_floor: see `comparison_probabilities`.
        fixed_variance: see `comparison_probabilities`.
        images: see `mean_over_opponents`.

    Returns:
        [B, K] in [0, 1.001], the type of `scores`. A predictor that cannot distinguish any pair
        earns sqrt(1/2) = .707 with every pair of different MOS.
    """
    return preference_fidelity(
        scores,
        true_preferences(mos.to(scores.dtype)),
        valid,
        gamma=gamma,
        variance_floor=variance_floor,
        fixed_variance=fixed_variance,
        images=images,
    )


def preference_fidelity(
    scores: Tensor,
    preferences: Tensor,
    valid: Tensor | None = None,
    *,
    gamma: float = GAMMA,
    variance_floor: float = 0.0,
    fixed_variance: float | None = None,
    images: Tensor | None = None,
) -> Tensor:
    """The same with a stated preference of each pair in place of the order of MOS.

    EvoQuality (arXiv 2509.25787) takes the majority of its own comparisons
    (`vqr1.iqa.votes.majority_preference`).

    Args:
        scores: [B, K] scores on any common scale.
        preferences: [B, B] in [0, 1], that image i is better than image j; NaN where nothing is
            known of a pair, which is then not compared.
        valid: [B, K] bool; None takes every finite score as valid.
        gamma: see `comparison_probabilities`.
        variance_floor: see `comparison_probabilities`.
        fixed_variance: see `comparison_probabilities`.
        images: see `mean_over_opponents`.
    """
    valid = torch.isfinite(scores) if valid is None else valid.bool()
    statistics = score_statistics(scores, valid)
    predicted = comparison_probabilities(
        scores,
        statistics,
        gamma=gamma,
        variance_floor=variance_floor,
        fixed_variance=fixed_variance,
    )
    stated, known = _stated(scores, torch.empty(0), preferences)
    true = stated[:, None, :]
    fidelity = (true * predicted + FIDELITY_EPSILON).sqrt() + (
        (1.0 - true) * (1.0 - predicted) + FIDELITY_EPSILON
    ).sqrt()
    return mean_over_opponents(fidelity, statistics, valid, images, known)


def probability_reward(
    scores: Tensor,
    mos: Tensor,
    valid: Tensor | None = None,
    *,
    gamma: float = GAMMA,
    images: Tensor | None = None,
    preferences: Tensor | None = None,
) -> Tensor:
    """Probability that the comparison comes out as the MOS state, or stated preferences.

    Args:
        scores: [B, K] scores on any common scale.
        mos: [B] MOS of the same data set, higher is better; only their order counts.
        valid: [B, K] bool; None takes every finite score as valid.
        gamma: see `comparison_probabilities`.
        images: see `mean_over_opponents`.
        preferences: [B, B] as of `preference_fidelity`, in place of the order of the MOS.

    Returns:
        [B, K] in [0, 1], the type of `scores`; every pair of equal MOS gives 1/2.
    """
    valid = torch.isfinite(scores) if valid is None else valid.bool()
    statistics = score_statistics(scores, valid)
    predicted = comparison_probabilities(scores, statistics, gamma=gamma)
    stated, known = _stated(scores, mos, preferences)
    true = stated[:, None, :]
    agreement = true * predicted + (1.0 - true) * (1.0 - predicted)
    return mean_over_opponents(agreement, statistics, valid, images, known)


def _stated(
    scores: Tensor, mos: Tensor, preferences: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """[B, B] preferences by MOS, or as given with 0 for unknown ones; which are known, if any."""
    if preferences is None:
        return true_preferences(mos.to(scores.dtype)), None
    known = torch.isfinite(preferences)
    return torch.where(known, preferences, torch.zeros_like(preferences)), known


def binary_reward(
    scores: Tensor,
    mos: Tensor,
    valid: Tensor | None = None,
    *,
    images: Tensor | None = None,
    preferences: Tensor | None = None,
) -> Tensor:
    """Share of the other images that a response ranks on the right side of itself.

    A pair of equal MOS counts as right only where score and opponent's mean are equal too.

    Args:
        scores: [B, K] scores on any common scale.
        mos: [B] MOS of the same data set, higher is better; only their order counts.
        valid: [B, K] bool; None takes every finite score as valid.
        images: see `mean_over_opponents`.
        preferences: [B, B] as of `preference_fidelity`, in place of the order of the MOS; a pair
            is in the order of its majority (above or below 1/2).

    Returns:
        [B, K] in [0, 1], the type of `scores`.
    """
    valid = torch.isfinite(scores) if valid is None else valid.bool()
    statistics = score_statistics(scores, valid)
    predicted = torch.sign(scores[:, :, None] - statistics.mean[None, None, :])
    stated, known = _stated(scores, mos, preferences)
    true = torch.sign(stated - 0.5)[:, None, :]
    right = (predicted == true).to(scores.dtype)
    return mean_over_opponents(right, statistics, valid, images, known)
