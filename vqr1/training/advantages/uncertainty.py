"""Uncertainty-aware advantages: images whose scores disagree count for less.

    A_k(i) = (r_k(i) - mean_i) / (std_i + 1e-4) * exp(-alpha u_i)
    u_i    = population variance of the image's valid scores / 4

Scores are on [1, 5], limited to it, where their variance is 4 at most and u is in [0, 1].
Source: Q-Hawkeye (arXiv 2601.22920), alpha .2.
"""

from __future__ import annotations

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from vqr1.config.types import STRICT_KEYS, NonNegativeFloat
from vqr1.iqa.answers import ASKED_RANGE
from vqr1.training.advantages.base import AdvantageInputs
from vqr1.training.advantages.group_normalised import group_advantages

LARGEST_VARIANCE = 4.0
"""Of values in [1, 5]."""


def group_uncertainty(scores: Tensor) -> Tensor:
    """U of the module header: [G] in [0, 1]; 0 with fewer than two valid scores.

    Args:
        scores: [G, K] on [1, 5], NaN where not valid.
    """
    valid = torch.isfinite(scores)
    low, high = ASKED_RANGE
    values = torch.where(valid, scores.clamp(low, high), torch.zeros_like(scores))
    count = valid.sum(dim=1).clamp_min(1)
    mean = values.sum(dim=1) / count
    squares = torch.where(valid, (values - mean[:, None]) ** 2, torch.zeros_like(values))
    return squares.sum(dim=1) / count / LARGEST_VARIANCE


@dataclass(config=STRICT_KEYS, kw_only=True, frozen=True)
class UncertaintyScaled:
    """`conf/advantage/uncertainty.yaml`."""

    alpha: NonNegativeFloat = 0.2
    """How much uncertainty takes away: exp(-alpha) at most."""

    def __call__(self, inputs: AdvantageInputs) -> Tensor:
        """See the module header."""
        assert inputs.scores is not None, "a step has scores"
        factor = torch.exp(-self.alpha * group_uncertainty(inputs.scores))
        return group_advantages(inputs.rewards) * factor[:, None]
