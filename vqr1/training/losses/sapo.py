"""SAPO: a soft gate on the ratio in place of a hard clip.

    objective_t = (4 / tau) sigmoid(tau (ratio_t - 1)) A       tau by the sign of A

Its gradient at ratio 1 is A, and falls smoothly on both sides. Source: arXiv 2511.20347.
Shapes: see `vqr1.records`.
"""

from __future__ import annotations

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from vqr1.config.types import STRICT_KEYS, PositiveFloat
from vqr1.training.losses.kl import bounded_exp
from vqr1.training.losses.policy_gradient import Objective, PolicyGradientLoss, Tokens


def soft_gate(ratio: Tensor, temperature: Tensor) -> Tensor:
    """[...] (4 / tau) sigmoid(tau (ratio - 1)), from 0 to 4 / tau; 2 / tau at ratio 1."""
    return torch.sigmoid(temperature * (ratio - 1.0)) * 4.0 / temperature


@dataclass(config=STRICT_KEYS, kw_only=True, frozen=True)
class SapoLoss(PolicyGradientLoss):
    """`conf/loss/sapo.yaml`."""

    temperature: PositiveFloat = 1.0
    """tau where the advantage is above 0."""
    negative_temperature: PositiveFloat = 1.05
    """tau elsewhere; higher, since raising many other tokens at once is less stable."""

    def objective(self, tokens: Tokens) -> Objective:
        """See the module header."""
        ratio = bounded_exp(tokens.log_ratio)
        positive = (tokens.advantage > 0).expand_as(ratio)
        temperature = torch.where(
            positive,
            torch.full_like(ratio, self.temperature),
            torch.full_like(ratio, self.negative_temperature),
        )
        gate = soft_gate(ratio, temperature)
        return Objective(gate * tokens.advantage, torch.zeros_like(tokens.used))
