"""CISPO: REINFORCE whose importance weights are clipped, so that every token keeps its gradient.

    objective_t = clip(ratio_t, floor, cap) A log p_t        the clipped ratio without gradient

Source: MiniMax-M1 (arXiv 2506.13585). TRL caps the ratio above only, at 5; verl clips it on both
sides, to [.8, 1.28]. Shapes: see `vqr1.records`.
"""

from __future__ import annotations

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from vqr1.config.types import STRICT_KEYS, NonNegativeFloat, PositiveFloat
from vqr1.training.losses.averaging import Averaging
from vqr1.training.losses.kl import bounded_exp
from vqr1.training.losses.policy_gradient import Objective, PolicyGradientLoss, Tokens


@dataclass(config=STRICT_KEYS, kw_only=True, frozen=True)
class CispoLoss(PolicyGradientLoss):
    """`conf/loss/cispo.yaml`."""

    averaging: Averaging = "token_mean"
    """As of every loss; published: over all tokens."""
    cap: PositiveFloat = 5.0
    """Largest ratio."""
    floor: NonNegativeFloat = 0.0
    """Smallest ratio."""

    @model_validator(mode="after")
    def _ordered(self) -> CispoLoss:
        if self.floor >= self.cap:
            raise ValueError(f"floor={self.floor}, cap={self.cap}: the floor must be the lower one")
        return self

    def objective(self, tokens: Tokens) -> Objective:
        """See the module header."""
        ratio = bounded_exp(tokens.log_ratio.detach())
        clipped = ratio.clamp(self.floor, self.cap)
        return Objective(clipped * tokens.advantage * tokens.logprobs, clipped != ratio)
