"""Dense attention with its log-sum-exp, forwards and backwards, on every device.

`torch.nn.functional.scaled_dot_product_attention` returns no log-sum-exp and cannot be given one
backwards, which joining two pieces of one softmax needs; the kernels beneath it do both:

- CPU: PyTorch's flash kernel;
- CUDA, 16-bit types: FlashAttention as PyTorch ships it;
- anything else (float32 on CUDA, other devices): plain matrix products.

Shapes: q and out [n, H, S, D]; k and v [n, G, T, D] with H a multiple of G; lse [n, H, S] float32
(float64 for float64), natural logarithm. Causal pieces are square (S = T).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vqr1.device import exact

_CPU_FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_CPU_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_CUDA_FORWARD = torch.ops.aten._scaled_dot_product_flash_attention
_CUDA_USED = torch.ops.aten._flash_attention_forward
_CUDA_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_backward


def _cuda_flash(q: Tensor) -> bool:
    head_size = q.shape[-1]
    return (
        q.is_cuda
        and q.dtype in (torch.float16, torch.bfloat16)
        and head_size % 8 == 0
        and head_size <= 256
    )


def lse_dtype(q: Tensor) -> torch.dtype:
    """Type of the log-sum-exps: float32, float64 where q has it."""
    return torch.promote_types(q.dtype, torch.float32)


def forward(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention output and log-sum-exp of the scaled scores.

    Args:
        q: [n, H, S, D] queries.
        k: [n, G, T, D] keys.
        v: [n, G, T, D] values.
        causal: query s sees keys up to s (S = T); otherwise every query sees every key.
        scale: factor of the scores.

    Returns:
        Output [n, H, S, D] in q's type and log-sum-exp [n, H, S] float32.
    """
    if q.device.type == "cpu":
        out, lse = _CPU_FORWARD(q, k, v, 0.0, causal, scale=scale)
        return out, lse
    if _cuda_flash(q):
        out, lse = _CUDA_FORWARD(q, k, v, 0.0, causal, False, scale=scale)[:2]
        return out, lse
    return math_forward(q, k, v, causal=causal, scale=scale)


def masked_forward(
    q: Tensor, k: Tensor, v: Tensor, *, seen: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """`forward` where queries see chosen keys only; not for backward passes.

    Args:
        q: as in `forward`.
        k: as in `forward`.
        v: as in `forward`.
        seen: [n or 1, 1, S, T] bool, True where a query sees a key; each must see at least one.
        scale: as in `forward`.
    """
    if q.device.type == "cpu":
        bias = torch.zeros(seen.shape, dtype=q.dtype).masked_fill_(~seen, -torch.inf)
        out, lse = _CPU_FORWARD(q, k, v, 0.0, False, attn_mask=bias, scale=scale)
        return out, lse
    return math_forward(q, k, v, causal=False, scale=scale, hidden=~seen)


@dataclass(frozen=True)
class UsedRows:
    """Where n sequences begin in rows of queries and of a cache of keys.

    Attributes:
        queries: [n + 1] int32.
        keys: [n + 1] int32.
        group: queries of each sequence.
        limit: places for keys of each sequence.
    """

    queries: Tensor
    keys: Tensor
    group: int
    limit: int

    @staticmethod
    def of(sequences: int, group: int, limit: int, device: torch.device) -> UsedRows:
        """Equally many queries, and places for keys, of each of n sequences."""
        numbers = torch.arange(sequences + 1, device=device, dtype=torch.int32)
        return UsedRows(numbers * group, numbers * limit, group, limit)


def reads_used(keys: Tensor) -> bool:
    """Whether `used_forward` serves such a cache: 16-bit types on CUDA."""
    return _cuda_flash(keys)


def used_forward(
    q: Tensor, k: Tensor, v: Tensor, used: Tensor, rows: UsedRows, *, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention to the first so many keys of a cache, a number that is on the device.

    A tensor states to the kernel how many there are, so that a recorded call serves every step. It
    takes queries and keys as rows; grouped heads are given as so many queries of one head: the
    kernel's own way with one query for each changes the order of its log-sum-exps.

    Args:
        q: [n, G, H/G, D] queries of one token each, those that share a key head together.
        k: [n, G, limit, D] keys whose places lie one after the other, each with all its heads.
        v: likewise.
        used: [n] int32, places of each that hold a key.
        rows: where the sequences begin.
        scale: factor of the scores.

    Returns:
        As `forward`.
    """
    queries = q.transpose(1, 2).reshape(-1, q.shape[1], q.shape[3])
    keys, values = (x.transpose(1, 2).flatten(0, 1) for x in (k, v))
    out, lse = _CUDA_USED(
        queries, keys, values, rows.queries, rows.keys, rows.group, rows.limit, 0.0, False, False,
        scale=scale, seqused_k=used,
    )[:2]  # fmt: skip
    shape = (q.shape[0], rows.group)
    return out.unflatten(0, shape).transpose(1, 2), lse.unflatten(1, shape).transpose(0, 1)


def join(out: Tensor, lse: Tensor, more: Tensor, more_lse: Tensor) -> Tensor:
    """Attention to two blocks of keys from the attention to each of them.

    With log-sum-exps l1 and l2 and outputs o1 and o2: l = log(exp(l1) + exp(l2)) and
    o = o1 exp(l1 - l) + o2 exp(l2 - l).

    Args:
        out: [..., D] output over the first block.
        lse: [...] its log-sum-exp.
        more: [..., D] output over the second block.
        more_lse: [...] its log-sum-exp.

    Returns:
        [..., D] in the type of `out`.
    """
    # The second block's share: exp(l2) / (exp(l1) + exp(l2)).
    share = torch.sigmoid(more_lse - lse)[..., None]
    return torch.lerp(out.to(share.dtype), more.to(share.dtype), share).to(out.dtype)


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    *,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v.

    `out` and `lse` may belong to a softmax over more keys than `k` holds; the result is then this
    piece's part of the gradients.

    Args:
        grad: [n, H, S, D] gradient of the output.
        q: as in `forward`.
        k: as in `forward`.
        v: as in `forward`.
        out: [n, H, S, D] output of the whole softmax.
        lse: [n, H, S] log-sum-exp of the whole softmax.
        causal: as in `forward`.
        scale: as in `forward`.

    Returns:
        Gradients in the shapes of q, k and v.
    """
    if q.device.type == "cpu":
        # The kernel takes four to eight times as long for 16-bit types as for float32.
        tensors = [x.to(lse.dtype) for x in (grad, q, k, v, out)]
        found = _CPU_BACKWARD(*tensors, lse, 0.0, causal, scale=scale)
        dq, dk, dv = (x.to(q.dtype) for x in found)
        return dq, dk, dv
    if _cuda_flash(q):
        # Without dropout the kernel reads neither seed nor offset.
        unused = torch.zeros((), dtype=torch.int64, device=q.device)
        sizes = (None, None, q.shape[2], k.shape[2])
        return _CUDA_BACKWARD(
            grad, q, k, v, out, lse.contiguous(), *sizes, 0.0, causal, unused, unused, scale=scale
        )
    return math_backward(grad, q, k, v, out=out, lse=lse, causal=causal, scale=scale)


def _repeated(heads: Tensor, times: int) -> Tensor:
    """Every head [n, G, T, D] so many times in a row."""
    return heads if times == 1 else heads.repeat_interleave(times, dim=1)


def _scores(
    q: Tensor, k: Tensor, causal: bool, scale: float, hidden: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    keys = _repeated(k, q.shape[1] // k.shape[1]).to(lse_dtype(q))
    scores = q.to(lse_dtype(q)) @ keys.transpose(-1, -2) * scale
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    if hidden is not None:
        scores = scores.masked_fill(hidden, -torch.inf)
    return scores, keys


def math_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    scale: float,
    hidden: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`forward` by matrix products: the definition, with all [S, T] scores in memory.

    `hidden` ([T], [S, T] or [n or 1, 1, S, T] bool, not with `causal`) is True where a query must
    not see a key; every query must see at least one.
    """
    with exact(q.device):
        scores, _ = _scores(q, k, causal, scale, hidden)
        values = _repeated(v, q.shape[1] // k.shape[1]).to(lse_dtype(q))
        lse = scores.logsumexp(dim=-1)
        out = torch.exp(scores - lse[..., None]) @ values
        return out.to(q.dtype), lse


def math_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    out: Tensor,
    lse: Tensor,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """`backward` by matrix products: dS = P (dO V' - rowsum(dO O)) with P = exp(S - lse)."""
    with exact(q.device):
        return _math_gradients(grad, q, k, v, out, lse, causal, scale)


def _math_gradients(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, kv_heads, keys_count, size = k.shape
    scores, keys = _scores(q, k, causal, scale)
    groups = q.shape[1] // kv_heads
    values = _repeated(v, groups).to(lse_dtype(q))
    grad = grad.to(lse_dtype(q))
    probs = torch.exp(scores - lse[..., None])
    delta = (grad * out.to(lse_dtype(q))).sum(dim=-1, keepdim=True)
    grad_scores = probs * (grad @ values.transpose(-1, -2) - delta) * scale
    grad_q = grad_scores @ keys
    grad_k = grad_scores.transpose(-1, -2) @ q.to(lse_dtype(q))
    grad_v = probs.transpose(-1, -2) @ grad
    shape = (batch, kv_heads, groups, keys_count, size)
    return (
        grad_q.to(q.dtype),
        grad_k.view(shape).sum(dim=2).to(k.dtype),
        grad_v.view(shape).sum(dim=2).to(v.dtype),
    )
