"""How the losses of a step's tokens are averaged, as a weight of each token.

The weights are computed once for the whole step, with the counts of all ranks, so that the sums of
micro-batches and ranks add up. Shapes: see `vqr1.records`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Averaging = Literal["response_mean", "token_mean", "dr_grpo", "response_sum"]


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


def _response_mean(tokens: Tensor, counts: Denominators, _: int) -> Tensor:
    lengths = tokens.sum(dim=2, keepdim=True)
    return tokens / lengths.clamp_min(1) / counts.responses.clamp_min(1)


def _token_mean(tokens: Tensor, counts: Denominators, _: int) -> Tensor:
    return tokens / counts.tokens.clamp_min(1)


def _dr_grpo(tokens: Tensor, counts: Denominators, limit: int) -> Tensor:
    return tokens / (counts.responses.clamp_min(1) * limit)


def _response_sum(tokens: Tensor, counts: Denominators, _: int) -> Tensor:
    return tokens / counts.responses.clamp_min(1)


_RULES: Mapping[Averaging, Callable[[Tensor, Denominators, int], Tensor]] = {
    "response_mean": _response_mean,
    "token_mean": _token_mean,
    "dr_grpo": _dr_grpo,
    "response_sum": _response_sum,
}


def token_weights(
    mask: Tensor,
    include: Tensor,
    averaging: Averaging,
    max_new_tokens: int,
    step: Denominators | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Weight of every response token in the loss.

    Args:
        mask: [B, K, C] bool, the sampled tokens.
        include: [B] bool, the groups that take part. Groups excluded keep their place in the
            denominator: the step of the others does not grow because some images taught nothing.
        averaging: `response_mean` averages in each response, then over responses (published);
            `token_mean` averages over all tokens (DAPO); `dr_grpo` divides the sum by responses
            times the length limit, so that long wrong answers are not favoured; `response_sum`
            adds up each response, then averages over responses (LUSPO, arXiv 2602.05261).
        max_new_tokens: the length limit, for `dr_grpo`.
        step: counts of the whole step where other processes have responses too; None counts `mask`.
        dtype: of the weights.

    Returns:
        [B, K, C], 0 outside mask and in groups excluded.
    """
    counts = Denominators.of(mask) if step is None else step
    weights = _RULES[averaging](mask.to(dtype), counts, max_new_tokens)
    return weights * include[:, None, None].to(dtype)
