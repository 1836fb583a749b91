"""How far the engine that samples is from the policy that trains, and the weight that corrects it.

Both compute log-probabilities of the same tokens under the same weights, but with other kernels,
other batches or another precision, so that the responses are drawn from slightly another policy
than the one whose gradient is taken.

    log-ratio_t = log p_t - log q_t              p: the trainer's pass, q: sampler log-probabilities
    weight_t    = min(exp(log-ratio_t), cap)     a constant factor of the policy loss at token t

Source: truncated importance sampling (Ionides 2008, doi:10.1198/106186008X320456), at the level of
tokens as is usual between a sampling engine and a trainer. The cut bounds the variance; it biases
the gradient only where an engine reports far too little probability.

Shape legend: see `vqr1.records`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vqr1.distributed.collectives import all_reduce_sum
from vqr1.training.losses.kl import k3_kl


def importance_weights(trainer: Tensor, engine: Tensor, cap: float) -> Tensor:
    """Weight of every token in the policy loss.

    Args:
        trainer: [B, K, C] log-probabilities of the trainer's pass under the weights that sampled.
        engine: [B, K, C] log-probabilities that the engine reported.
        cap: largest weight, at least 1.

    Returns:
        [B, K, C] in (0, cap], without gradient.
    """
    return (trainer - engine).detach().exp().clamp(max=cap)


def importance_factors(
    trainer: Tensor, engine: Tensor | None, part: slice, cap: float | None
) -> Tensor | None:
    """`importance_weights` of some images of a step; None where nothing is corrected.

    Args:
        trainer: [b, K, C] of these images.
        engine: [B, K, C] of all images of the step; None where the engine reports none.
        part: these images.
        cap: largest weight; None corrects nothing.
    """
    if cap is None or engine is None:
        return None
    return importance_weights(trainer, engine[part], cap)


def mismatch_metrics(
    trainer: Tensor, engine: Tensor, mask: Tensor, cap: float | None
) -> dict[str, float]:
    """Metrics of one step, over the tokens of all processes.

    Args:
        trainer: [B, K, C] log-probabilities of the trainer's pass under the weights that sampled.
        engine: [B, K, C] log-probabilities that the engine reported.
        mask: [B, K, C] bool, the tokens that the trainer has computed.
        cap: largest importance weight, None where nothing is corrected.

    Returns:
        `mismatch/kl`: k3 estimate of KL(engine || trainer) per token, in nats (`k3_kl`, bounded);
        `mismatch/logprob_gap`: mean |log p - log q|; with a cap also
        `mismatch/capped_rate`: share of the tokens whose weight is cut. Empty without tokens.
    """
    # Zeros where nothing was computed add nothing; the number of tokens is not waited for.
    p, q = (torch.where(mask, x, 0.0).double() for x in (trainer, engine))
    bound = math.inf if cap is None else math.log(cap)
    sums = torch.stack([k3_kl(q, p).sum(), (p - q).abs().sum(), (p - q > bound).sum(), mask.sum()])
    kl, gap, capped, tokens = all_reduce_sum(sums.float()).tolist()
    if tokens == 0:
        return {}
    metrics = {"mismatch/kl": kl / tokens, "mismatch/logprob_gap": gap / tokens}
    return metrics if cap is None else {**metrics, "mismatch/capped_rate": capped / tokens}
