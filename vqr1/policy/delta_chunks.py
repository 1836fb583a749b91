r"""The gated delta rule in chunks of tokens, of matrix products alone: for processors.

Within a chunk of c tokens that begins with the state S (Gated DeltaNet, arXiv 2412.06464; the form
of DeltaNet's WY representation, 2406.06484), with G_i the sum of g up to token i:

    A_ij = beta_i exp(G_i - G_j) (k_i . k_j)  for j < i,   T = (I + A)^-1
    d = T (beta (v - exp(G) k S))
    o = exp(G) q S + ((q k^T) exp(G_i - G_j), j <= i) d
    S' = exp(G_c) S + k^T (exp(G_c - G) d)

The library solves triangular systems in place of T, which takes most of its time on a CPU; here T
is put together from inverses of its diagonal blocks, 1, 2, 4, ... rows wide. Products that value
heads of one key head share are computed once. For the backward pass only the inputs are kept, and
the chunks are computed again.

Shape legend: N sequences, T tokens, G key heads of size D, H = G R value heads of size E, c tokens
of a chunk, n chunks.

Not here: convolutions, and where sequences lie in a row (`linear_attention.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CHUNK = 32
"""Tokens of a chunk: fewer make more steps, more make wider products within a chunk."""

EPSILON = 1e-6
"""Under the root of the norms of q and k, as in the models."""


def normalised(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Rows q and k [..., D] of unit length, q divided by sqrt(D)."""
    q, k = (x * torch.rsqrt(x.square().sum(-1, keepdim=True) + EPSILON) for x in (q, k))
    return q * q.shape[-1] ** -0.5, k


def uncast(like: Tensor) -> torch.autocast:
    """A block in which autocast lowers no product: states add up over all tokens."""
    return torch.autocast(like.device.type, enabled=False)


def chunked_delta(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The recurrence over N sequences.

    Args:
        q: [N, T, G, D].
        k: [N, T, G, D].
        v: [N, T, H, E].
        decay: [N, T, H] g, at most 0.
        beta: [N, T, H].
        state: [N, H, D, E] S before the first token; None: zero.

    Returns:
        [N, T, H, E] of the type of v, and S after the last token, in float32 at least.
    """
    if state is None:
        exact = torch.promote_types(v.dtype, torch.float32)
        state = v.new_zeros(len(v), v.shape[2], q.shape[-1], v.shape[-1], dtype=exact)
    out, last = _Recomputed.apply(q, k, v, decay, beta, state)
    return out, last


class _Recomputed(torch.autograd.Function):
    """`_run`, keeping its arguments only."""

    @staticmethod
    def forward(ctx: Any, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(*arguments)
        with uncast(arguments[0]):
            return _run(*arguments)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        arguments = [saved.detach() for saved in ctx.saved_tensors]
        needed = [x for x, need in zip(arguments, ctx.needs_input_grad, strict=True) if need]
        for argument in needed:
            argument.requires_grad_()
        with torch.enable_grad(), uncast(arguments[0]):
            found = iter(torch.autograd.grad(_run(*arguments), needed, grads))
        return tuple(next(found) if need else None for need in ctx.needs_input_grad)


def _run(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """See `chunked_delta`."""
    exact, kind, length = state.dtype, v.dtype, v.shape[1]
    keys, group = q.shape[2], v.shape[2] // q.shape[2]
    size = min(CHUNK, 1 << (length - 1).bit_length())
    q, k = normalised(q.to(exact), k.to(exact))

    def chunks(x: Tensor, *heads: int) -> Tensor:
        """[N, T, heads, ...] as [n, N, *heads, c, ...], zeros after the last token."""
        missing = -length % size
        if missing:
            x = nn.functional.pad(x, (0, 0) * (x.dim() - 2) + (0, missing))
        x = x.unflatten(1, (-1, size)).unflatten(3, heads)
        return x.movedim(1, 0).movedim(2, 2 + len(heads)).contiguous()

    q, k = chunks(q, keys), chunks(k, keys)
    v, decay, beta = (chunks(x.to(exact), keys, group) for x in (v, decay, beta))
    beta = beta[..., None]
    total = decay.cumsum(-1)
    share = total[..., :, None] - total[..., None, :]
    later = torch.ones(size, size, dtype=torch.bool, device=v.device).triu(1)
    share = share.masked_fill(later, -torch.inf).exp()
    links = (k @ k.transpose(-1, -2))[:, :, :, None] * share * beta
    inverse = unit_lower_inverse(links)
    scores = (q @ k.transpose(-1, -2))[:, :, :, None] * share
    reach = total.exp()[..., None]
    rest = (total[..., -1:] - total).exp()[..., None]
    through = total[..., -1].exp()[..., None, None]

    # [N, G, D, R E]: one product for the value heads of a key head.
    shape = (keys, group)
    now = state.unflatten(1, shape).transpose(2, 3)
    outs = []
    for step in range(len(q)):
        flat = now.flatten(3)
        known = (k[step] @ flat).unflatten(-1, (group, -1)).transpose(2, 3)
        change = inverse[step] @ (beta[step] * (v[step] - reach[step] * known))
        read = (q[step] @ flat).unflatten(-1, (group, -1)).transpose(2, 3)
        outs.append(reach[step] * read + scores[step] @ change)
        written = (rest[step] * change).transpose(2, 3).flatten(3)
        grown = (k[step].transpose(-1, -2) @ written).unflatten(-1, (group, -1))
        now = now * through[step].transpose(2, 3) + grown
    out = torch.stack(outs, dim=1).permute(0, 1, 4, 2, 3, 5).flatten(3, 4).flatten(1, 2)
    return out[:, :length].to(kind), now.transpose(2, 3).flatten(1, 2)


class _UnitLowerInverse(torch.autograd.Function):
    """(I + A)^-1 of the part of A below the diagonal: dA = -T^T dT T^T there."""

    @staticmethod
    def forward(ctx: Any, lower: Tensor) -> Tensor:
        inverse = _inverse(lower)
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (inverse,) = ctx.saved_tensors
        turned = inverse.transpose(-1, -2)
        return (turned @ grad @ turned).neg_().tril_(-1)


def unit_lower_inverse(lower: Tensor) -> Tensor:
    """(I + A)^-1 of matrices [..., c, c] of which only what is below the diagonal is read.

    Args:
        lower: c must be a power of two.
    """
    inverse: Tensor = _UnitLowerInverse.apply(lower)
    return inverse


def _inverse(lower: Tensor) -> Tensor:
    """[[A, 0], [B, C]]^-1 = [[A^-1, 0], [-C^-1 B A^-1, C^-1]], from single rows on."""
    full = lower.shape[-1]
    inverse = torch.eye(full, dtype=lower.dtype, device=lower.device).repeat(
        *lower.shape[:-2], 1, 1
    )
    half = 1
    while half < full:
        shape = (full // (2 * half), 2 * half)
        own, given = (
            x.unflatten(-1, shape).unflatten(-3, shape).diagonal(dim1=-4, dim2=-2).movedim(-1, -3)
            for x in (inverse, lower)
        )
        first, second = own[..., :half, :half], own[..., half:, half:]
        own[..., half:, :half] = -(second @ given[..., half:, :half] @ first)
        half *= 2
    return inverse
