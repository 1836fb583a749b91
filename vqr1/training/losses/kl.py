"""Differences of log-probabilities: a bounded exp, and estimators of a KL divergence.

    k1_t = logprob_t - ref_t
    k2_t = (logprob_t - ref_t)^2 / 2
    k3_t = exp(ref_t - logprob_t) - (ref_t - logprob_t) - 1

exp overflows float32 at 88.7. Above `EXP_LIMIT` it is therefore continued by its tangent: loss and
gradient stay finite and keep their direction, and below the limit nothing is different from the
formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

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


def k1_kl(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Token-wise k1 estimate, in nats: unbiased, of either sign.

    As a term of a loss its expected gradient is 0; it belongs into a reward. Arguments as `k3_kl`.
    """
    return logprobs - reference


def k2_kl(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Token-wise k2 estimate, half the squared difference in nats; its gradient is that of the KL.

    Arguments as `k3_kl`.
    """
    return 0.5 * (logprobs - reference) ** 2


KlEstimator = Literal["k1", "k2", "k3"]

KL_ESTIMATORS: Mapping[KlEstimator, Callable[[Tensor, Tensor], Tensor]] = {
    "k1": k1_kl,
    "k2": k2_kl,
    "k3": k3_kl,
}
"""Estimates of KL(policy || reference) from the policy's own samples (Schulman 2020)."""
