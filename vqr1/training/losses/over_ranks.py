"""What a step's loss is averaged over, and its sums, of the responses of all ranks.

Not here: the weights of tokens (`averaging.py`), losses. Shapes: see `vqr1.records`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vqr1.distributed.collectives import all_reduce_sum
from vqr1.records import LossOutput
from vqr1.training.losses.averaging import Denominators


def denominators_over_ranks(mask: Tensor) -> Denominators:
    """Counts of the responses of all processes: [B, K, C] bool of this one."""
    own = Denominators.of(mask)
    responses, tokens = all_reduce_sum(torch.stack([own.responses, own.tokens])).unbind()
    return Denominators(responses, tokens)


def total_over_ranks(outputs: list[LossOutput], weights: Tensor) -> LossOutput:
    """Sum of all parts' losses; KL and clip fraction per unit of weight that took part.

    Args:
        outputs: of this rank's parts, scalars each.
        weights: those of this rank's tokens that took part, of any shape.
    """
    parts = [[o.loss.detach(), o.policy_loss, o.kl, o.clip_fraction] for o in outputs]
    sums = torch.stack([torch.stack(part) for part in parts]).sum(dim=0) if parts else None
    own = weights.new_zeros(4) if sums is None else sums.float()
    whole = all_reduce_sum(torch.cat([own, weights.sum()[None]]))
    scale = whole[4].clamp_min(torch.finfo(weights.dtype).tiny)
    return LossOutput(
        loss=whole[0], policy_loss=whole[1], kl=whole[2] / scale, clip_fraction=whole[3] / scale
    )
