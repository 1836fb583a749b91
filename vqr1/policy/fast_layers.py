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

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.activations import ACT2FN

from vqr1.device import exact, to_device
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
        with exact(grad.device):
            return _norm_gradients(grad, *ctx.saved_tensors, *ctx.needs_input_grad[:2])


def _norm_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor, for_x: bool, for_weight: bool
) -> tuple[Tensor | None, Tensor | None, None]:
    """Gradients of the norm's rows and weight."""
    size = x.shape[-1]
    grad = grad.contiguous()  # of heads, which were transposed afterwards
    product = (grad * x).view(-1, size)
    grad_x = grad_weight = None
    if for_weight:
        grad_weight = product.t().mv(scale.view(-1))
    if for_x:
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


def fused_rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """The RMS norm of rows [..., n] of any type, in the kernel that accelerators have for it.

    It keeps its input and one number a row, computes in float32 and gives the input's type; under
    autocast PyTorch would make a float32 copy of its input first.
    """
    with exact(x.device):
        return nn.functional.rms_norm(x, weight.shape, weight.to(x.dtype), epsilon)


@dataclass(frozen=True)
class WindowPlan:
    """Windows of rows, those of the same size together.

    Attributes:
        runs: windows of one size, their length, and their rows on the device.
        order: where each row is after the runs; None where all windows are of one size.
    """

    runs: tuple[tuple[int, int, Tensor], ...]
    order: Tensor | None

    @staticmethod
    def of(bounds: Tensor, device: torch.device) -> WindowPlan:
        """The plan of windows between bounds [windows + 1]; made once for all layers of a pass.

        It is kept at the tensor of bounds itself, which all layers are given.
        """
        kept: WindowPlan | None = getattr(bounds, "_window_plan", None)
        if kept is None:
            kept = WindowPlan._made(bounds.tolist(), device)
            bounds._window_plan = kept  # type: ignore[attr-defined]
        return kept

    @staticmethod
    def sent(bounds: Tensor, device: torch.device) -> Tensor:
        """Bounds of the host on the device, which is not asked for them again."""
        there = to_device(bounds, device)
        there._window_plan = WindowPlan._made(bounds.tolist(), device)  # type: ignore[attr-defined]
        return there

    @staticmethod
    def _made(bounds: list[int], device: torch.device) -> WindowPlan:
        windows: dict[int, list[int]] = {}
        for start, end in pairwise(bounds):
            windows.setdefault(end - start, []).append(start)
        rows = [
            (torch.tensor(starts)[:, None] + torch.arange(length)).flatten()
            for length, starts in windows.items()
        ]
        sizes = [(len(starts), length) for length, starts in windows.items()]
        if len(windows) == 1:
            return WindowPlan(((*sizes[0], rows[0]),), None)
        places = torch.cat(rows)
        # Sent together; a copy of each would be waited for.
        sent, order = to_device(torch.stack([places, places.argsort()]), device).unbind()
        parts = sent.split([len(part) for part in rows])
        runs = tuple((*size, part) for size, part in zip(sizes, parts, strict=True))
        return WindowPlan(runs, order)


def window_attention(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, scale: float) -> Tensor:
    """Attention inside windows of rows.

    Args:
        q: [N, H, D] queries.
        k: [N, H, D] keys.
        v: [N, H, D] values.
        bounds: [windows + 1] first row of each window, and N at the end; of an accelerator,
            `WindowPlan.sent` bounds are not waited for.
        scale: factor of the scores.

    Returns:
        [N, H * D].
    """
    plan = WindowPlan.of(bounds, q.device)

    def attend(count: int, length: int, *parts: Tensor) -> Tensor:
        query, key, value = (row_block(part, 0, count, length) for part in parts)
        out = nn.functional.scaled_dot_product_attention(query, key, value, scale=scale)
        return out.transpose(1, 2).flatten(0, 1).flatten(1)

    if plan.order is None:
        ((count, length, _),) = plan.runs
        return attend(count, length, q, k, v)
    pieces = [
        attend(count, length, *(x[rows] for x in (q, k, v))) for count, length, rows in plan.runs
    ]
    return torch.cat(pieces)[plan.order]


_SILU = (nn.SiLU, type(ACT2FN["silu"]))


def use_fast_layers(model: nn.Module, *, linears: bool = True) -> None:
    """Makes a policy's layers leaner, and its linear layers faster where the processor gains.

    In place, for policy and reference alike; call it once after loading, before or after adapters
    are added. Calling it again changes nothing.

    Args:
        model: the policy, bare or wrapped.
        linears: linear layers too; without, they stay PyTorch's own.

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
    if linears:
        use_fast_linears(core)
