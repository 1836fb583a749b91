"""Differences of log-probabilities: a bounded exp, and the k3 estimator of a KL divergence.

    kl_t = exp(ref_t - logprob_t) - (ref_t - logprob_t) - 1

exp overflows float32 at 88.7. Above `EXP_LIMIT` it is therefore continued by its tangent: loss and
gradient stay finite and keep their direction, and below the limit nothing is different from the
formulas.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

EXP_LIMIT = 20.0
"""Difference of log-probabilities, in nats, up to which its exp is exact: one of the two policies
gives the token e^20 = 4.9e8 times the probability of the other."""


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
