"""Which tokens a policy loss excludes, and which it chooses by their covariance.

    entropy      tokens below a quantile of the entropies (arXiv 2506.01939: the top 20 % remain)
    off-policy   responses with A < 0 whose mean log(q / p) over their tokens is above a limit
                 (DeepSeek-V3.2, arXiv 2512.02556)
    covariance   (A_t - mean A)(log p_t - mean log p), over the tokens (arXiv 2505.22617)

Quantiles and covariances are taken over the tokens of ONE image's K responses: the public code
takes those of a micro-batch or of all ranks, where the result depends on how much fits into memory
or needs a second pass. Everything here is without gradient.

Shape legend: see `vqr1.records`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def high_entropy_tokens(entropies: Tensor, mask: Tensor, quantile: float) -> Tensor:
    """Tokens whose entropy is at or above the group's quantile.

    Args:
        entropies: [B, K, C] in nats.
        mask: [B, K, C] bool, the tokens that count.
        quantile: share of the tokens that is excluded, in [0, 1); linearly interpolated.

    Returns:
        [B, K, C] bool, False outside `mask`; a group without tokens has none.
    """
    values = entropies.detach().float().masked_fill(~mask, torch.nan).flatten(1)
    limits = values.nanquantile(quantile, dim=1)[:, None, None]
    return (entropies.detach() >= limits) & mask


def on_policy_responses(
    advantages: Tensor, logprobs: Tensor, sampler: Tensor, mask: Tensor, limit: float
) -> Tensor:
    """False where a bad response has become too unlikely under the policy to learn from.

    Args:
        advantages: [B, K, 1] or [B, K, C].
        logprobs: [B, K, C] under the policy being trained.
        sampler: [B, K, C] under the policy that sampled.
        mask: [B, K, C] bool, the tokens that count.
        limit: largest mean of sampler - logprobs over a response's tokens, in nats.

    Returns:
        bool, the shape of `advantages`.
    """
    gap = torch.where(mask, sampler - logprobs.detach(), torch.zeros_like(logprobs))
    mean = gap.sum(dim=2, keepdim=True) / mask.sum(dim=2, keepdim=True).clamp_min(1)
    return (advantages >= 0) | (mean <= limit)


def token_covariance(advantages: Tensor, logprobs: Tensor, mask: Tensor) -> Tensor:
    """Each token's share of the covariance of advantage and log-probability in its group.

    Args:
        advantages: [B, K, 1] or [B, K, C].
        logprobs: [B, K, C].
        mask: [B, K, C] bool, the tokens that count.

    Returns:
        [B, K, C]; 0 outside `mask`.
    """
    used = mask.to(logprobs.dtype)
    count = used.sum(dim=(1, 2), keepdim=True).clamp_min(1)
    advantage = advantages.expand_as(logprobs)
    logprobs = torch.where(mask, logprobs.detach(), torch.zeros_like(logprobs))
    centred = [
        value - (value * used).sum(dim=(1, 2), keepdim=True) / count
        for value in (advantage, logprobs)
    ]
    return centred[0] * centred[1] * used


def largest_tokens(values: Tensor, mask: Tensor, count: Tensor) -> Tensor:
    """The tokens of largest value in each group.

    Args:
        values: [B, K, C].
        mask: [B, K, C] bool, the tokens to choose from.
        count: [B] int64 how many of each group; fewer where it has fewer.

    Returns:
        [B, K, C] bool; of equal values the first ones.
    """
    flat = values.masked_fill(~mask, -torch.inf).flatten(1)
    order = flat.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return (rank < count[:, None]).view_as(mask) & mask


def share_of_tokens(mask: Tensor, share: float) -> Tensor:
    """[B] int64 a share of each group's tokens, rounded down, at least 1."""
    return (mask.sum(dim=(1, 2)).double() * share).long().clamp_min(1)
