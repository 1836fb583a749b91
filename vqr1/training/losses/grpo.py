"""The GRPO objective on response tokens as pure functions.

    ratio_t  = exp(logprob_t - old_logprob_t)
    policy_t = -min(ratio_t A, clip(ratio_t, 1 - c, 1 + c) A) m_t
    kl_t     = exp(ref_t - logprob_t) - (ref_t - logprob_t) - 1        (k3 estimator)
    loss     = sum_t w_t (policy_t + beta kl_t)

with m_t = 1, or the importance weight of `importance_sampling.py`.

exp is bounded (`kl.py`). The weights w_t hold the averaging rule (`averaging.py`).

Source: GRPO (arXiv 2402.03300) as in the public VisualQuality-R1 code.
Shapes: see `vqr1.records`.
"""

from __future__ import annotations

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from vqr1.config.types import STRICT_KEYS, NonNegativeFloat, PositiveFloat
from vqr1.records import LossOutput
from vqr1.training.losses.averaging import Averaging
from vqr1.training.losses.base import LossInputs, PolicyLoss
from vqr1.training.losses.kl import bounded_exp, k3_kl


@dataclass(config=STRICT_KEYS, kw_only=True, frozen=True)
class GrpoLoss(PolicyLoss):
    """`conf/loss/grpo.yaml`."""

    averaging: Averaging = "response_mean"
    """How token losses are averaged: mean in each response then over responses (published),
    over all tokens, or the sum over tokens divided by the length limit (Dr.GRPO)."""
    clip: PositiveFloat = 0.2
    """Probability ratios are clipped to [1 - clip, 1 + clip]."""
    kl_weight: NonNegativeFloat = 0.0
    """beta: weight of the k3 estimate of KL(policy || reference); 0 needs no reference."""

    def __call__(self, inputs: LossInputs) -> LossOutput:
        """See `PolicyLoss`, and `grpo_loss`."""
        return grpo_loss(
            inputs.logprobs,
            inputs.old,
            inputs.reference,
            inputs.advantages,
            inputs.weights,
            kl_weight=self.kl_weight,
            clip=self.clip,
            importance=inputs.importance,
        )


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    reference_logprobs: Tensor | None,
    advantages: Tensor,
    weights: Tensor,
    *,
    kl_weight: float,
    clip: float,
    importance: Tensor | None = None,
) -> LossOutput:
    """Clipped policy gradient plus KL to the reference.

    Args:
        logprobs: [B, K, C] log-probabilities under the policy being trained, with gradient.
        old_logprobs: [B, K, C] under the policy that sampled, no gradient.
        reference_logprobs: [B, K, C] under the frozen reference, or None when `kl_weight` is 0.
        advantages: [B, K] of each response, or [B, K, C] of each token.
        weights: [B, K, C] from `token_weights`, of the whole batch or of this part of it.
        kl_weight: beta.
        clip: half width of the ratio's interval around 1.
        importance: [B, K, C] factors of the policy loss against an engine that samples from a
            slightly other policy (`vqr1.training.importance_sampling`); None is 1.

    Returns:
        Sums over the given part: parts of one batch add up to the loss of the batch. `kl` and
        `clip_fraction` are weighted by the same weights.
    """
    used = weights > 0
    logprobs = torch.where(used, logprobs, torch.zeros_like(logprobs))
    log_ratio = logprobs - torch.where(used, old_logprobs, torch.zeros_like(old_logprobs))
    ratio = bounded_exp(log_ratio)
    advantage = advantages if advantages.ndim == 3 else advantages[:, :, None]
    unclipped = ratio * advantage
    clipped = ratio.clamp(1.0 - clip, 1.0 + clip) * advantage
    objective = torch.minimum(unclipped, clipped)
    if importance is not None:
        objective = objective * torch.where(used, importance, torch.zeros_like(importance))
    policy_loss = -(weights * objective).sum()
    kl = torch.zeros((), device=logprobs.device)
    if reference_logprobs is not None:
        kl = (weights * k3_kl(logprobs, torch.where(used, reference_logprobs, logprobs))).sum()
    bound = (clipped < unclipped).float()
    return LossOutput(
        loss=policy_loss + kl_weight * kl,
        policy_loss=policy_loss.detach(),
        kl=kl.detach(),
        clip_fraction=(weights * bound).sum().detach(),
    )
