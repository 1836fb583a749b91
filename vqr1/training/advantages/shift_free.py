"""Centred advantages without the part that moves all scores of the step alike.

    a_k(i) = r_k(i) - mean_i,   d_k(i) = s_k(i) - mean of i's valid scores, 0 where not valid
    A_k(i) = a_k(i) - b d_k(i),   b = sum a d / sum d^2 over the whole step

A reward that only compares images stays as it is where all scores move by the same amount, so what
the advantages hold of such a move (b) is chance. A policy follows it all the same, and faster than
anything else, since one change serves all images: the mean score wanders, and at an end of the
range all answers are equal. This rule takes that part away: sum A d = 0. Adam's scales bring a
little of it back. Not for rewards that name a score (`mse`, `margin`), whose b is a signal.

Source: this project (experiments/real_vlm); centring without a scale is Dr.GRPO's (arXiv
2503.20783).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from vqr1.config.types import STRICT_KEYS
from vqr1.training.advantages.base import AdvantageInputs
from vqr1.training.advantages.group_normalised import group_advantages


def without_common_shift(advantages: Tensor, scores: Tensor) -> Tensor:
    """Take from advantages what they hold of one shift of all scores.

    Args:
        advantages: [G, K] centred in each group.
        scores: [G, K] scores, NaN where there is none.

    Returns:
        [G, K], as given where no two scores of a group differ.
    """
    mean = scores.nanmean(dim=1, keepdim=True)
    deviations = torch.nan_to_num(scores - mean).to(advantages.dtype)
    square = deviations.square().sum()
    slope = torch.where(square > 0, (advantages * deviations).sum() / square, 0.0)
    return advantages - slope * deviations


@dataclass(config=STRICT_KEYS, kw_only=True, frozen=True)
class ShiftFree:
    """`conf/advantage/shift_free.yaml`."""

    order_only: ClassVar[bool] = True
    """See `AdvantageRule`."""

    def __call__(self, inputs: AdvantageInputs) -> Tensor:
        """See the module header."""
        assert inputs.scores is not None, "a step has scores"
        advantages = group_advantages(inputs.rewards, normalise_std=False)
        return without_common_shift(advantages, inputs.scores)
