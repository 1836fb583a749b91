"""How the losses of a step's tokens are averaged, as a weight of each token.

The weights are computed once for the whole step, with the counts of all ranks, so that the sums of
micro-batches and ranks add up. Shapes: see `vqr1.records`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Averaging = Literal["response_mean", "token_mean", "dr_grpo"]


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
        include: [B] bool, the groups that take part. Groups excluded keep their place in the
            denominator: the step of the others does not grow because some images taught nothing.
        averaging: `response_mean` averages in each response, then over responses (published);
            `token_mean` averages over all tokens; `dr_grpo` divides the sum by responses times
            the length limit, so that long wrong answers are not favoured.
        max_new_tokens: the length limit, for `dr_grpo`.
        step: counts of the whole step where other processes have responses too; None counts `mask`.

    Returns:
        [B, K, C] float32, 0 outside mask and in groups excluded.
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
