"""VESPO: REINFORCE whose responses are weighted by a gamma-shaped function of their whole ratio.

    W           = product over a response's tokens of ratio_t (and of the importance weights)
    phi(W)      = exp(lambda + k log W - lambda W)            phi(1) = 1, without gradient
    objective_t = phi(W) A log p_t                            k, lambda by the sign of A

log-ratios are held in [-20, 20] a token, log W in [log 1e-8, 20]. Source: arXiv 2602.10693 as in
TRL. Shapes: see `vqr1.records`.
"""

from __future__ import annotations

import math

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from vqr1.config.types import STRICT_KEYS, PositiveFloat
from vqr1.training.losses.averaging import Averaging
from vqr1.training.losses.policy_gradient import Objective, PolicyGradientLoss, Tokens

LARGEST_LOG = 20.0
SMALLEST_LOG = math.log(1e-8)


def gamma_weights(
    advantage: Tensor,
    log_ratio: Tensor,
    used: Tensor,
    importance: Tensor | None,
    shape: Tensor,
    rate: Tensor,
) -> Tensor:
    """phi(W) of the module header.

    Args:
        advantage: [B, K, 1] or [B, K, C]; only its shape is used.
        log_ratio: [B, K, C] log-ratios of the tokens.
        used: [B, K, C] bool, the tokens that count.
        importance: [B, K, C] importance weights against the sampler, 1 outside `used`; None is 1.
        shape: k, the shape of `advantage`.
        rate: lambda, the shape of `advantage`.

    Returns:
        [B, K, 1] or [B, K, C], without gradient.
    """
    counted = used.to(log_ratio.dtype)
    whole = (log_ratio.detach().clamp(-LARGEST_LOG, LARGEST_LOG) * counted).sum(2, keepdim=True)
    if importance is not None:
        logs = importance.log().clamp(SMALLEST_LOG, LARGEST_LOG)
        whole = whole + logs.sum(2, keepdim=True)
    log_w = whole.clamp(SMALLEST_LOG, LARGEST_LOG)
    phi = (rate + shape * log_w - rate * log_w.exp()).exp()
    return phi.nan_to_num(nan=0.0, posinf=0.0).expand_as(advantage)


@dataclass(config=STRICT_KEYS, kw_only=True, frozen=True)
class VespoLoss(PolicyGradientLoss):
    """`conf/loss/vespo.yaml`."""

    averaging: Averaging = "token_mean"
    """As of every loss; published: over all tokens."""
    shape: PositiveFloat = 2.0
    """k where the advantage is 0 or above."""
    rate: PositiveFloat = 3.0
    """lambda where the advantage is 0 or above."""
    negative_shape: PositiveFloat = 3.0
    """k where the advantage is below 0."""
    negative_rate: PositiveFloat = 2.0
    """lambda where the advantage is below 0."""

    def objective(self, tokens: Tokens) -> Objective:
        """See the module header."""
        advantage, positive = tokens.advantage, tokens.advantage >= 0
        shape, rate = (
            torch.where(positive, torch.full_like(advantage, a), torch.full_like(advantage, b))
            for a, b in ((self.shape, self.negative_shape), (self.rate, self.negative_rate))
        )
        importance = tokens.importance
        if importance is not None:
            importance = torch.where(tokens.used, importance, torch.ones_like(importance))
        phi = gamma_weights(advantage, tokens.log_ratio, tokens.used, importance, shape, rate)
        value = phi * advantage * tokens.logprobs
        return Objective(value, torch.zeros_like(tokens.used), corrected=True)
