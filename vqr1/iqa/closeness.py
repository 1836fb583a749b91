"""Rewards that compare one score with its own image's MOS, on [1, 5]; nothing is ranked.

    squared error   -(q_k - MOS)^2, never below -16 (the regression baseline)
    threshold       1[ |q_k - MOS| < width ], width .35 in Q-Insight (arXiv 2503.22679)

An invalid answer has no error. Under the squared error it earns what the worst possible answer on
[1, 5] earns, and no valid answer earns less, so that being unreadable is never the better choice;
under the threshold it earns 0. Shapes: see `vqr1.records`.
"""

from __future__ import annotations

import torch
from torch import Tensor

WORST_SQUARED_ERROR = (5.0 - 1.0) ** 2
THRESHOLD = 0.35


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
    scores: Tensor, mos: Tensor, valid: Tensor, *, width: float = THRESHOLD
) -> Tensor:
    """1 for a score closer to its image's MOS than `width`, else 0.

    Args:
        scores: [B, K] scores.
        mos: [B] MOS on [1, 5].
        valid: [B, K] bool.
        width: the largest error, itself excluded.

    Returns:
        [B, K] of 0 and 1, the type of `scores`.
    """
    close = (scores - mos[:, None]).abs() < width
    return (close & valid).to(scores.dtype)
