r"""The perception term: answers shall depend on what is seen (Q-Hawkeye, arXiv 2601.22920).

    loss = policy loss - gamma(s) mean_t k3_t,     k3_t = exp(d_t) - d_t - 1,
    d_t = log pi(token t | degraded image) - log pi(token t | image)

over the sampled tokens: the estimate of KL(pi given the image || pi given its degraded copy), from
responses to the image. The mean is over all tokens of the step of all ranks; those of groups
outside the update count in its denominator only, as in the rest of the loss. As in the public code,
the probabilities given the copy are constants: the gradient is that of the image's own. gamma falls
by a cosine from its weight to 0 at a share `until` of the training.

Not here: the copies (`vqr1.data.degraded`). Shapes: see `vqr1.records`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vqr1.config import PerceptionConfig
from vqr1.data.degraded import KINDS
from vqr1.distributed.collectives import all_reduce_sum
from vqr1.training.losses.falling import falling_share
from vqr1.training.losses.kl import k3_kl


def perception_weight(config: PerceptionConfig, step: int, total_steps: int) -> float:
    """Weight gamma of a step.

    Args:
        config: the term's.
        step: optimiser steps taken so far, from 0.
        total_steps: optimiser steps in all.
    """
    return config.weight * falling_share(step, total_steps, config.until)


@dataclass(frozen=True)
class PerceptionTerm:
    """The term of one step.

    Attributes:
        gamma: its weight.
        degraded: [B, K, C] log-probabilities of the sampled tokens given the degraded copies.
        weights: [B, K, C] of each token in the mean over the step (`token_mean`).
    """

    gamma: float
    degraded: Tensor
    weights: Tensor

    def loss(self, part: slice, logprobs: Tensor) -> Tensor:
        """[] share of some images in the loss; [B, K, C] their log-probabilities."""
        return -self.gamma * (self.weights[part] * k3_kl(logprobs, self.degraded[part])).sum()

    def metrics(self, logprobs: Tensor) -> dict[str, float]:
        """What the step logs: the mean per token of the update, in nats, of all ranks.

        Args:
            logprobs: [B, K, C] under the policy before the update.
        """
        own = torch.stack(
            [(self.weights * k3_kl(logprobs, self.degraded)).sum(), self.weights.sum()]
        )
        total, weight = all_reduce_sum(own).tolist()
        return {"perception_kl": total / weight if weight else 0.0, "perception_weight": self.gamma}


def perception_problems(config: PerceptionConfig) -> list[str]:
    """What is wrong with the kinds and strengths of the degraded copies, one line each."""
    key = "loss.perception.degradation"
    if not config.weight:
        return []
    if not config.degradation:
        return [f"{key}={{}}: name at least one kind: {', '.join(KINDS)}"]
    problems = []
    for kind, given in config.degradation.items():
        low, high = given if isinstance(given, tuple) else (given, given)
        if kind not in KINDS:
            problems.append(f"{key}.{kind}: no such kind; choose from {', '.join(KINDS)}")
        elif not 0 < low <= high:
            problems.append(
                f"{key}.{kind}={given}: must be a strength above 0, or [lowest, highest]"
            )
    return problems
