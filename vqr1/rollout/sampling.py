"""Drawing one token for each of n rows from their logits.

    z' = penalised(z) where the repetition penalty is not 1
    p = softmax(z' / T), cut to the likeliest tokens, without banned tokens, renormalised;
    token = smallest v with cdf(v) > u * cdf(V)          (inversion of the distribution function)

The noise u is one number for each token, made beforehand from (seed, image content, response), so
that neither the batch around a response nor the global random state changes it.

Shape legend: n rows (live responses), V vocabulary.

Not here: stop rules (`stopping.py`), decoding (`decode.py`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vqr1.config import SamplingConfig


def uniform_noise(
    seed: int, image_keys: Sequence[Sequence[bytes]], group_size: int, length: int
) -> Tensor:
    """Noise of every token that may be drawn.

    Args:
        seed: at least 0.
        image_keys: by prompt, digests of its images (`vqr1.policy.vision.image_keys`). Images that
            come twice in a batch, together and in the same order, get other noise the second time.
        group_size: K.
        length: most tokens of a response.

    Returns:
        [B, K, length] float64 in [0, 1).
    """
    seen: Counter[bytes] = Counter()
    noise = np.empty((len(image_keys), group_size, length))
    for b, key in enumerate(map(_prompt_key, image_keys)):
        words = np.frombuffer(key, dtype=np.uint32).tolist()
        for k in range(group_size):
            noise[b, k] = np.random.default_rng([seed, seen[key], k, *words]).random(length)
        seen[key] += 1
    return torch.from_numpy(noise)


def _prompt_key(image_keys: Sequence[bytes]) -> bytes:
    """The digest of a prompt's images: that of the one image, or of all in order."""
    if len(image_keys) == 1:
        return image_keys[0]
    return hashlib.sha256(b"".join(image_keys)).digest()[:16]


def prompt_seed(seed: int, images: Sequence[Tensor], k: int = 0) -> int:
    """Seed of answer `k` to a prompt's images [H, W, 3]; 31 bits, some servers take no more."""
    digest = hashlib.sha256(f"{seed} {k}".encode())
    for pixels in images:
        digest.update(f" {tuple(pixels.shape)}".encode())
        digest.update(pixels.cpu().contiguous().numpy().tobytes())
    return int.from_bytes(digest.digest()[:4], "big") >> 1


def _cut(probs: Tensor, sampling: SamplingConfig) -> Tensor:
    """Sets the probabilities that top-k and top-p cut off to 0; the likeliest always stays."""
    vocabulary = probs.shape[-1]
    if 0 < sampling.top_k < vocabulary:
        kept, index = probs.topk(sampling.top_k, dim=-1)
    elif sampling.top_p < 1.0:
        kept, index = probs.sort(dim=-1, descending=True)
    else:
        return probs
    if sampling.top_p < 1.0:
        # A token stays if the likelier ones together have not yet reached top_p (of what top-k
        # left).
        share = kept.cumsum(dim=-1) / kept.sum(dim=-1, keepdim=True)
        before = torch.cat([torch.zeros_like(share[:, :1]), share[:, :-1]], dim=-1)
        kept = kept.masked_fill(before >= sampling.top_p, 0.0)
    return torch.zeros_like(probs).scatter_(-1, index, kept)


def penalised(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits with a repetition penalty, as transformers and vLLM compute it.

    The positive logits of tokens that were seen are divided by the penalty and the negative ones
    multiplied by it, once, however often a token was seen. Dividing by a temperature before or
    after is the same.

    Args:
        logits: [n, V].
        seen: [n, V] bool, tokens of each row's prompt and response so far.
        penalty: above 0; above 1 makes repetitions less likely.
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def draw(
    logits: Tensor,
    noise: Tensor,
    sampling: SamplingConfig,
    banned: Tensor,
    seen: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws one token for each row.

    Args:
        logits: [n, V] float32, not yet divided by the temperature.
        noise: [n] float64 in [0, 1); not used by greedy decoding.
        sampling: temperature (0: the likeliest token), top_k and top_p. top_p is taken of what
            top_k leaves.
        banned: [m] tokens that are never drawn.
        seen: [n, V] bool, tokens that `sampling.repetition_penalty` applies to; None: no penalty.

    Returns:
        [n] int64 tokens, and their [n] float32 log-probabilities under the WHOLE distribution at
        the temperature (at temperature 1 where decoding is greedy): banned tokens, cuts and the
        repetition penalty do not enter them, so that they equal `shared_prompt.response_logprobs`.
        Where logits hold NaN or infinity, or leave no token that may be drawn, the token is any and
        its log-probability is not finite (`vqr1.policy.finite.check_logprobs`).
    """
    if sampling.temperature not in (0.0, 1.0):
        logits = logits / sampling.temperature
    normaliser = torch.logsumexp(logits, dim=-1, keepdim=True)
    shown, total = logits, normaliser
    if seen is not None:
        shown = penalised(logits, seen, sampling.repetition_penalty)
        total = torch.logsumexp(shown, dim=-1, keepdim=True)
    if sampling.temperature == 0.0:
        tokens = shown.index_fill(-1, banned, -torch.inf).argmax(dim=-1)
    else:
        probs = torch.exp(shown - total).index_fill_(-1, banned, 0.0)
        tokens = _invert(_cut(probs, sampling).cumsum(dim=-1), noise)
    # No token exceeds the target: gathering one that does not exist would end a CUDA process.
    none = tokens >= logits.shape[-1]
    tokens = tokens.masked_fill(none, 0)
    logprobs = (logits.gather(-1, tokens[:, None]) - normaliser)[:, 0]
    return tokens, logprobs.masked_fill(none, torch.nan)


def _invert(cdf: Tensor, noise: Tensor) -> Tensor:
    """[n] first tokens whose cumulated probability [n, V] exceeds the noise's share of the sum.

    V where none does: the sum is 0 or NaN.
    """
    total = cdf[:, -1]
    target = (noise.to(cdf.device) * total.double()).to(cdf.dtype)
    # Rounding may lift the target to the sum itself, which no token exceeds.
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cdf, target[:, None], right=True)[:, 0]
