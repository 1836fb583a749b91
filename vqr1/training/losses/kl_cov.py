"""KL-Cov: a penalty on the tokens that take most of the entropy away.

    objective_t = ratio_t A - weight |log r_t|     tokens of the largest covariance (`masks.py`)
    objective_t = ratio_t A                        all others; nothing is clipped

Source: arXiv 2505.22617 as in verl. Shapes: see `vqr1.records`.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from vqr1.config.types import STRICT_KEYS, NonNegativeFloat
from vqr1.training.losses.averaging import Averaging
from vqr1.training.losses.kl import bounded_exp
from vqr1.training.losses.masks import largest_tokens, share_of_tokens, token_covariance
from vqr1.training.losses.policy_gradient import Objective, PolicyGradientLoss, Tokens


@dataclass(config=STRICT_KEYS, kw_only=True, frozen=True)
class KlCovLoss(PolicyGradientLoss):
    """`conf/loss/kl_cov.yaml`."""

    averaging: Averaging = "token_mean"
    """As of every loss; published: over all tokens."""
    share: Annotated[float, Field(gt=0, lt=1)] = 2e-4
    """Share of an image's tokens that is penalised; at least one is."""
    penalty: NonNegativeFloat = 1.0
    """Weight of the penalty, in nats."""

    def objective(self, tokens: Tokens) -> Objective:
        """See the module header."""
        covariance = token_covariance(tokens.advantage, tokens.logprobs, tokens.used)
        count = share_of_tokens(tokens.used, self.share)
        chosen = largest_tokens(covariance, tokens.used, count)
        penalty = self.penalty * tokens.log_ratio.abs()
        value = bounded_exp(tokens.log_ratio) * tokens.advantage
        return Objective(torch.where(chosen, value - penalty, value), chosen)
