"""Layers of Qwen2.5-VL that keep less for the backward pass and pass over memory less often.

The library's gated feed-forward keeps silu(gate) beside gate, up and their product, and its RMS
norm keeps the normalised input beside the input; written as one autograd function each, both
recompute what costs nothing:

    swiglu:  y = silu(g) u;   du = dy silu(g),  dg = silu'(g) (dy u)
    norm:    y = w x r,  r = (mean(x^2) + eps)^(-1/2);
             dw = sum (dy x) r,   dx = r w dy - x r^3 / n sum_j (dy x)_j w_j

The vision tower attends in windows; the library calls its attention once a window, here windows of
the same size share a call.

`use_fast_layers` changes the classes of a model's own modules; parameters, names and state dicts
stay, and so do results up to rounding. Linear layers: see `cpu_linear.py`.

Not here: kernels written for an accelerator.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.activations import ACT2FN
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen

from vqr1.policy.backbone import unwrap
from vqr1.policy.cpu_linear import fast_product, use_fast_linears
from vqr1.policy.tree_attention import row_block


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
        product = (grad * x).view(-1, size)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = product.t().mv(scale.view(-1))
        if ctx.needs_input_grad[0]:
            share = product.mv(weight).view(scale.shape).mul_(scale.pow(3)).div_(-size)
            grad_x = torch.mul(grad, weight, out=product.view(grad.shape))
            grad_x.mul_(scale).addcmul_(x, share)
        return grad_x, grad_weight, None


class FastRmsNorm(qwen.Qwen2_5_VLRMSNorm):
    """The library's norm; float32 inputs go through `_RmsNorm`."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[..., n] -> [..., n]."""
        if hidden_states.dtype != torch.float32 or self.weight.dtype != torch.float32:
            return super().forward(hidden_states)
        rows: Tensor = _RmsNorm.apply(hidden_states, self.weight, self.variance_epsilon)
        return rows


def _fast_feed_forward(module: Any, hidden: Tensor) -> Tensor:
    gated = _SwiGlu.apply(module.gate_proj(hidden), module.up_proj(hidden))
    out: Tensor = module.down_proj(gated)
    return out


class FastTextMlp(qwen.Qwen2MLP):
    """The text model's feed-forward layer through `_SwiGlu`."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        return _fast_feed_forward(self, x)


class FastVisionMlp(qwen.Qwen2_5_VLMLP):
    """The vision tower's feed-forward layer through `_SwiGlu`."""

    def forward(self, hidden_state: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        return _fast_feed_forward(self, hidden_state)


class FastPatchEmbed(qwen.Qwen2_5_VisionPatchEmbed):
    """The patches' embedding as a matrix product: the convolution's stride is its kernel's size."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[N, channels * frames * patch * patch] -> [N, H]."""
        weight = self.proj.weight.flatten(1)
        rows = hidden_states.view(-1, weight.shape[1]).to(weight.dtype)
        return fast_product(rows, weight)


class FastVisionAttention(qwen.Qwen2_5_VLVisionAttention):
    """The vision tower's attention, with one call for all windows of the same size."""

    def forward(
        self,
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        max_seqlen: int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """[N, H] -> [N, H]; windows are the runs of rows between two of `cu_seqlens`."""
        if self.config._attn_implementation != "sdpa":
            # Kernels for windows of different sizes have no need of it.
            attended: Tensor = super().forward(
                hidden_states, cu_seqlens, position_embeddings, max_seqlen, **kwargs
            )
            return attended
        rows = hidden_states.shape[0]
        q, k, v = self.qkv(hidden_states).view(rows, 3, self.num_heads, -1).unbind(1)
        q, k = qwen.apply_rotary_pos_emb_vision(q, k, *position_embeddings)
        out: Tensor = self.proj(window_attention(q, k, v, cu_seqlens.tolist(), self.scaling))
        return out


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

_REPLACEMENTS: dict[type[nn.Module], type[nn.Module]] = {
    qwen.Qwen2_5_VLRMSNorm: FastRmsNorm,
    qwen.Qwen2MLP: FastTextMlp,
    qwen.Qwen2_5_VLMLP: FastVisionMlp,
    qwen.Qwen2_5_VisionPatchEmbed: FastPatchEmbed,
    qwen.Qwen2_5_VLVisionAttention: FastVisionAttention,
}


def use_fast_layers(model: nn.Module) -> None:
    """Makes a policy's layers leaner, and its linear layers faster where the processor gains.

    In place, for policy and reference alike; call it once after loading, before or after adapters
    are added. Calling it again changes nothing.

    Args:
        model: the policy, bare or wrapped.

    Raises:
        ModelError: the model has not the parts of Qwen2.5-VL.
    """
    core = unwrap(model)
    for module in core.modules():
        replacement = _REPLACEMENTS.get(type(module))
        if replacement is None:
            continue
        if hasattr(module, "act_fn") and not isinstance(module.act_fn, _SILU):
            continue
        module.__class__ = replacement
    use_fast_linears(core)
