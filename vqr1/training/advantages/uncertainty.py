"""Uncertainty-aware advantages: images whose scores disagree count for less.

    A_k(i) = (r_k(i) - mean_i) / (std_i + 1e-4) * exp(-alpha u_i)

u_i in [0, 1] is that of `vqr1.iqa.uncertainty`. Source: Q-Hawkeye (arXiv 2601.22920), alpha .2.
"""

from __future__ import annotations

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from vqr1.config.types import STRICT_KEYS, NonNegativeFloat
from vqr1.iqa.uncertainty import group_uncertainty
from vqr1.training.advantages.base import AdvantageInputs
from vqr1.training.advantages.group_normalised import group_advantages


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
