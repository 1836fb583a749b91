"""Rewards that compare one score with its own image's MOS, on [1, 5]; nothing is ranked.

    squared error   -(q_k - MOS)^2, never below -16 (the regression baseline)
    threshold       1[ |q_k - MOS| < width ], width .35 in Q-Insight (arXiv 2503.22679); <= in
                    Refine-IQA (2508.03763), width .5
    exponential     exp(-|q_k - MOS| / decay): Q-Hawkeye (2601.22920) .3, IQA-T1 (2607.12375) .2
    gaussian        exp(-e^2 / 2 s^2): UniPercept (2512.21675), TATAR (2603.19779)
    relative        1 - |q_k - MOS| / MOS: public code of VQ-Insight (2506.18564)

Errors are compared with a threshold in decimals: scores and MOS in float32 are up to 5e-7 off the
numbers that they stand for, so that 3.35 - 3 would be below .35.

An invalid answer has no error. Under the squared error it earns what the worst possible answer on
[1, 5] earns, and no valid answer earns less, so that being unreadable is never the better choice;
under the others it earns 0. Shapes: see `vqr1.records`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vqr1.iqa.answers import ASKED_RANGE

WORST_SQUARED_ERROR = (5.0 - 1.0) ** 2
THRESHOLD = 0.35
ERROR_DECIMALS = 5
"""Decimals to which an error is rounded before it is compared with a threshold: the finest that
float32 scores and MOS on [1, 5] have for certain, also where they were scaled from another one."""
RELATIVE_EPSILON = 1e-8
"""Added to the MOS that is divided by (public code)."""


def squared_error_reward(scores: Tensor, mos: Tensor, valid: Tensor) -> Tensor:
    """Minus the squared error.

    Args:
        scores: [B, K] scores.
        mos: [B] MOS on [1, 5].
        valid: [B, K] bool.

    Returns:
        [B, K] in [-16, 0].
    """
    error = (scores - mos[:, None]) ** 2
    worst = torch.full_like(error, WORST_SQUARED_ERROR)
    return -torch.where(valid, error, worst).clamp_max(WORST_SQUARED_ERROR)


def threshold_reward(
    scores: Tensor,
    mos: Tensor,
    valid: Tensor,
    *,
    width: float = THRESHOLD,
    inclusive: bool = False,
) -> Tensor:
    """1 for a score closer to its image's MOS than `width`, else 0.

    Args:
        scores: [B, K] scores.
        mos: [B] MOS on [1, 5].
        valid: [B, K] bool.
        width: the largest error; the errors that it is compared with have `ERROR_DECIMALS`.
        inclusive: an error of exactly `width` counts as close.

    Returns:
        [B, K] of 0 and 1, the type of `scores`.
    """
    error = (scores.double() - mos[:, None].double()).abs().round(decimals=ERROR_DECIMALS)
    close = error <= width if inclusive else error < width
    return (close & valid).to(scores.dtype)


def exponential_reward(
    scores: Tensor, mos: Tensor, valid: Tensor, *, decay: float, clamp: bool = False
) -> Tensor:
    """exp(-|q - MOS| / decay).

    Args:
        scores: [B, K] scores.
        mos: [B] MOS on [1, 5].
        valid: [B, K] bool.
        decay: error at which the reward has fallen to 1 / e.
        clamp: limit scores to [1, 5] first, so that answers beyond it earn what its end earns.

    Returns:
        [B, K] in [0, 1]; 0 for invalid answers.
    """
    values = scores.clamp(*ASKED_RANGE) if clamp else scores
    reward = torch.exp(-(values - mos[:, None]).abs() / decay)
    return torch.where(valid, reward, torch.zeros_like(reward))


def gaussian_reward(
    scores: Tensor, mos: Tensor, valid: Tensor, *, sigma: float, growth: float = 0.0,
    span: float = 4.0,
) -> Tensor:  # fmt: skip
    """exp(-e^2 / 2 s^2) with s = sigma (1 + growth e / span) and e = |q - MOS|.

    The width grows with the error, so that far answers still differ.

    Args:
        scores: [B, K] scores.
        mos: [B] MOS on the same scale.
        valid: [B, K] bool.
        sigma: width at no error, in units of the scale.
        growth: alpha: how much wider at the largest error.
        span: largest error of the scale, 4 on [1, 5].

    Returns:
        [B, K] in [0, 1]; 0 for invalid answers.
    """
    error = (scores - mos[:, None]).abs()
    width = sigma * (1.0 + growth * error / span)
    reward = torch.exp(-0.5 * (error / width) ** 2)
    return torch.where(valid, reward, torch.zeros_like(reward))


def relative_reward(scores: Tensor, mos: Tensor, valid: Tensor) -> Tensor:
    """1 - |q - MOS| / MOS, at least 0: the public code of VQ-Insight, whose paper has 1 - |error|.

    Args:
        scores: [B, K] scores, on the scale of `mos` from 0.
        mos: [B] MOS; where one is not above 0 nothing is earned.
        valid: [B, K] bool.

    Returns:
        [B, K] in [0, 1]; 0 for invalid answers.
    """
    error = (scores - mos[:, None]).abs() / (mos[:, None] + RELATIVE_EPSILON)
    earned = valid & (mos[:, None] > 0)
    return torch.where(earned, 1.0 - error.clamp_max(1.0), torch.zeros_like(error))
