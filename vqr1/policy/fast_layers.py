"""Layers that keep less for the backward pass and pass over memory less often.

The library's gated feed-forward keeps silu(gate) beside gate, up and their product, and its RMS
norm keeps the normalised input beside the input; written as one autograd function each, both
recompute what costs nothing:

    swiglu:  y = silu(g) u;   du = dy silu(g),  dg = silu'(g) (dy u)
    norm:    y = w x r,  r = (mean(x^2) + eps)^(-1/2);
             dw = sum (dy x) r,   dx = r w dy - x r^3 / n sum_j (dy x)_j w_j

Some towers attend in windows; the library calls their attention once a window, here windows of the
same size share a call.

`use_fast_layers` changes the classes of a model's own modules to those that its family names;
parameters, names and state dicts stay, and so do results up to rounding. Linear layers: see
`cpu_linear.py`.

Not here: the classes (`families/`), kernels written for an accelerator.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.activations import ACT2FN

from vqr1.policy.cpu_linear import use_fast_linears
from vqr1.policy.tree_attention import row_block
from vqr1.policy.unwrap import family_of, unwrap


class _SwiGlu(torch.autograd.Function):
    """silu(gate) * up, keeping gate and up only."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return nn.functional.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad_gate = torch.ops.aten.silu_backward(grad * up, gate)
        return grad_gate, nn.functional.silu(gate).mul_(grad)


class _RmsNorm(torch.autograd.Function):
    """The RMS norm of float32 rows [..., n], keeping the input and one number a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        size = x.shape[-1]
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = norm.square_().div_(size).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, scale = ctx.saved_tensors
        size = x.shape[-1]
        grad = grad.contiguous()  # of heads, which were transposed afterwards
        product = (grad * x).view(-1, size)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = product.t().mv(scale.view(-1))
        if ctx.needs_input_grad[0]:
            share = product.mv(weight).view(scale.shape).mul_(scale.pow(3)).div_(-size)
            grad_x = torch.mul(grad, weight, out=product.view(grad.shape))
            grad_x.mul_(scale).addcmul_(x, share)
        return grad_x, grad_weight, None


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, both [..., I]."""
    gated: Tensor = _SwiGlu.apply(gate, up)
    return gated


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """The RMS norm of float32 rows [..., n] with weight [n]."""
    rows: Tensor = _RmsNorm.apply(x, weight, epsilon)
    return rows


def window_attention(q: Tensor, k: Tensor, v: Tensor, bounds: list[int], scale: float) -> Tensor:
    """Attention inside windows of rows.

    Args:
        q: [N, H, D] queries.
        k: [N, H, D] keys.
        v: [N, H, D] values.
        bounds: first row of each window, and N at the end.
        scale: factor of the scores.

    Returns:
        [N, H * D].
    """
    windows: dict[int, list[int]] = {}
    for start, end in pairwise(bounds):
        windows.setdefault(end - start, []).append(start)

    def attend(count: int, length: int, *parts: Tensor) -> Tensor:
        query, key, value = (row_block(part, 0, count, length) for part in parts)
        out = nn.functional.scaled_dot_product_attention(query, key, value, scale=scale)
        return out.transpose(1, 2).flatten(0, 1).flatten(1)

    if len(windows) == 1:
        ((length, starts),) = windows.items()
        return attend(len(starts), length, q, k, v)
    places, pieces = [], []
    for length, starts in windows.items():
        rows = (torch.tensor(starts)[:, None] + torch.arange(length)).flatten().to(q.device)
        pieces.append(attend(len(starts), length, q[rows], k[rows], v[rows]))
        places.append(rows)
    order = torch.cat(places).argsort()
    return torch.cat(pieces)[order]


_SILU = (nn.SiLU, type(ACT2FN["silu"]))


def use_fast_layers(model: nn.Module) -> None:
    """Makes a policy's layers leaner, and its linear layers faster where the processor gains.

    In place, for policy and reference alike; call it once after loading, before or after adapters
    are added. Calling it again changes nothing.

    Args:
        model: the policy, bare or wrapped.

    Raises:
        ModelError: the model is of no known family.
    """
    core = unwrap(model)
    replacements = family_of(core).fast_layers()
    for module in core.modules():
        replacement = replacements.get(type(module))
        if replacement is None:
            continue
        if hasattr(module, "act_fn") and not isinstance(module.act_fn, _SILU):
            continue
        module.__class__ = replacement
    use_fast_linears(core)
