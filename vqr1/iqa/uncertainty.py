"""How much the answers to one image disagree.

    u = population variance of the image's valid scores / 4

Scores are on [1, 5], limited to it, where their variance is 4 at most and u is in [0, 1].
Source: Q-Hawkeye (arXiv 2601.22920). Shapes: see `vqr1.records`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vqr1.iqa.answers import ASKED_RANGE

LARGEST_VARIANCE = 4.0
"""Of values in [1, 5]."""


def group_uncertainty(scores: Tensor) -> Tensor:
    """U of the module header: [B] in [0, 1]; 0 with fewer than two valid scores.

    Args:
        scores: [B, K] on [1, 5], NaN where not valid.
    """
    valid = torch.isfinite(scores)
    low, high = ASKED_RANGE
    values = torch.where(valid, scores.clamp(low, high), torch.zeros_like(scores))
    count = valid.sum(dim=1).clamp_min(1)
    mean = values.sum(dim=1) / count
    squares = torch.where(valid, (values - mean[:, None]) ** 2, torch.zeros_like(values))
    return squares.sum(dim=1) / count / LARGEST_VARIANCE
