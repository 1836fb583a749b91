"""Log-probabilities of given tokens without logits of the whole row.

Only positions that predict a response token reach the output head, in chunks of bounded size;
chunks of larger problems are computed again in the backward pass instead of being kept:

    log p(y | h) = (z_y - logsumexp(z)) with z = head(h) / temperature, in float32 (float64 where
    the model computes in it).

Shape legend: M positions, V vocabulary, H hidden size.

Not here: sampling (`vqr1.rollout.sampling`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

MAX_LOGITS = 2**24
"""Most logits that exist at a time: 64 MiB in float32."""

MAX_LOGITS_GPU = 2**28
"""The same on an accelerator: 1 GiB. Every chunk reads the whole head, casts it under autocast, and
adds a gradient of its size, which at 2^24 is most of what an update of a large vocabulary moves."""


def logits_limit(device: torch.device) -> int:
    """Most logits that exist at a time on a device."""
    return MAX_LOGITS if device.type == "cpu" else MAX_LOGITS_GPU


def scaled_logits(head: nn.Module, hidden: Tensor, temperature: float) -> Tensor:
    """Logits [M, V] in float32 (float64 for float64) of hidden states [M, H] / temperature."""
    logits = head(hidden)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits if temperature == 1.0 else logits / temperature


def _chunk_logprobs(
    head: nn.Module, hidden: Tensor, targets: Tensor, temperature: float, with_entropy: bool
) -> tuple[Tensor, Tensor]:
    """[M, T] log-probabilities of T targets a position and [M] entropies (empty if not wanted)."""
    logits = scaled_logits(head, hidden, temperature)
    normaliser = torch.logsumexp(logits, dim=-1)
    logprobs = logits.gather(-1, targets) - normaliser[:, None]
    if not with_entropy:
        return logprobs, logprobs.new_empty(0)
    with torch.no_grad():
        # H = logsumexp(z) - sum p z: no second tensor of the logits' size but p itself.
        probs = torch.exp(logits - normaliser[:, None])
        entropy = normaliser - torch.linalg.vecdot(probs, logits)
    return logprobs, entropy


def target_logprobs(
    head: nn.Module,
    hidden: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    with_entropy: bool = False,
    max_logits: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities of tokens at M positions.

    Args:
        head: output head, [M, H] -> [M, V].
        hidden: [M, H] normalised hidden states of the predicting positions.
        targets: [M, T] int64 tokens whose log-probabilities are wanted.
        temperature: divides the logits, above 0.
        with_entropy: also give the entropy of the whole distribution.
        max_logits: most logits computed at a time; None is `logits_limit` of the device.

    Returns:
        [M, T] float32 natural log-probabilities, and [M] float32 entropies in nats (never
        differentiable) or None.
    """
    vocabulary = _vocabulary(head)
    limit = logits_limit(hidden.device) if max_logits is None else max_logits
    rows = max(1, limit // vocabulary)
    recompute = hidden.shape[0] > rows and torch.is_grad_enabled()
    logprobs, entropies = [], []
    for part, wanted in zip(hidden.split(rows), targets.split(rows), strict=True):
        if recompute:
            result = checkpoint(
                _chunk_logprobs,
                head,
                part,
                wanted,
                temperature,
                with_entropy,
                use_reentrant=False,
                preserve_rng_state=False,
            )
        else:
            result = _chunk_logprobs(head, part, wanted, temperature, with_entropy)
        logprobs.append(result[0])
        entropies.append(result[1])
    return torch.cat(logprobs), torch.cat(entropies) if with_entropy else None


def _vocabulary(head: Any) -> int:
    base = head.get_base_layer() if hasattr(head, "get_base_layer") else head
    return int(base.out_features)
