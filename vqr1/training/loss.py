"""The GRPO objective on response tokens as pure functions.

    ratio_t  = exp(logprob_t - old_logprob_t)
    policy_t = -min(ratio_t A, clip(ratio_t, 1 - c, 1 + c) A) m_t
    kl_t     = exp(ref_t - logprob_t) - (ref_t - logprob_t) - 1        (k3 estimator)
    loss     = sum_t w_t (policy_t + beta kl_t)

with m_t = 1, or the importance weight of `importance_sampling.py`.

exp overflows float32 at 88.7. Above `EXP_LIMIT` it is therefore continued by its tangent, in the
ratio and in the KL (`bounded_exp`): loss and gradient stay finite and keep their direction, and
below the limit nothing is different from the formulas.

Source: GRPO (arXiv 2402.03300) as in the public VisualQuality-R1 code. The weights w_t hold the
averaging rule and are computed once for the whole batch, so that micro-batches just add up.
Shapes: see `vqr1.records`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vqr1.records import LossOutput

Averaging = Literal["response_mean", "token_mean", "dr_grpo"]

EXP_LIMIT = 20.0
"""Difference of log-probabilities, in nats, up to which its exp is exact: one of the two policies
gives the token e^20 = 4.9e8 times the probability of the other."""


@dataclass(frozen=True)
class Denominators:
    """What a loss is averaged over: counts of a whole step, of all processes.

    Attributes:
        responses: responses with at least one token.
        tokens: tokens of all responses.
    """

    responses: Tensor
    tokens: Tensor

    @classmethod
    def of(cls, mask: Tensor) -> Denominators:
        """Counts of this process's responses: [B, K, C] bool."""
        lengths = mask.sum(dim=2)
        return cls((lengths > 0).sum(), lengths.sum())


def token_weights(
    mask: Tensor,
    include: Tensor,
    averaging: Averaging,
    max_new_tokens: int,
    step: Denominators | None = None,
) -> Tensor:
    """Weight of every response token in the loss.

    Args:
        mask: [B, K, C] bool, the sampled tokens.
        include: [B] bool, the groups that take part. Groups left out keep their place in the
            denominator: the step of the others does not grow because some images taught nothing.
        averaging: `response_mean` averages in each response, then over responses (published);
            `token_mean` averages over all tokens; `dr_grpo` divides the sum by responses times
            the length limit, so that long wrong answers are not favoured.
        max_new_tokens: the length limit, for `dr_grpo`.
        step: counts of the whole step where other processes have responses too; None counts `mask`.

    Returns:
        [B, K, C] float32, 0 outside mask and in groups left out.
    """
    tokens = mask.float()
    lengths = tokens.sum(dim=2, keepdim=True)
    counts = Denominators.of(mask) if step is None else step
    responses = counts.responses.clamp_min(1)
    if averaging == "response_mean":
        weights = tokens / lengths.clamp_min(1) / responses
    elif averaging == "token_mean":
        weights = tokens / counts.tokens.clamp_min(1)
    else:
        weights = tokens / (responses * max_new_tokens)
    return weights * include[:, None, None].float()


def bounded_exp(difference: Tensor) -> Tensor:
    """exp(x) up to `EXP_LIMIT`, bit for bit; above it the tangent exp(limit) (1 + x - limit).

    Args:
        difference: [...] differences of log-probabilities.
    """
    above = difference > EXP_LIMIT
    # Infinity in the branch that is not taken would make its gradient NaN.
    within = difference.masked_fill(above, EXP_LIMIT).exp()
    tangent = math.exp(EXP_LIMIT) * (1.0 - EXP_LIMIT + difference)
    return torch.where(above, tangent, within)


def k3_kl(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Token-wise k3 estimate of KL(policy || reference) in nats, never negative.

    Exact where reference - logprobs is at most `EXP_LIMIT`; a lower bound, linear in the
    difference, above it.

    Args:
        logprobs: [...] policy log-probabilities of the sampled tokens.
        reference: [...] reference log-probabilities of the same tokens.
    """
    difference = reference - logprobs
    return bounded_exp(difference) - difference - 1.0


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
        advantages: [B, K].
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
    advantage = advantages[:, :, None]
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
