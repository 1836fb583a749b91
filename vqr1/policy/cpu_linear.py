"""Faster float32 matrix products of linear layers on some CPUs.

PyTorch multiplies float32 matrices on CPUs with MKL. On AMD processors MKL leaves the 512-bit units
unused; oneDNN, which PyTorch carries too, uses them and is about twice as fast there (measured:
`docs/performance.md`). `use_fast_linears` changes the class of a model's linear layers to one that
calls oneDNN; parameters, names, state dicts, adapters and results (to rounding) stay as they are.

The choice depends on the processor alone, never on a measurement, so that two runs on one machine
compute the same.

Not here: other devices, other types (layers under autocast take PyTorch's way).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vqr1.processor import processor

# Below this many rows the packing of the weights costs more than the faster product saves.
_MIN_ROWS = 8


@cache
def fast_linears_help() -> bool:
    """Whether this machine's processor gains: AMD with 512-bit vectors, oneDNN built in."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    if not torch.backends.mkldnn.is_available():
        return False
    return processor()[1] == "AuthenticAMD"


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Rows x [M, I] times weight [O, I] transposed, plus bias [O]; any strides."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


class _Linear(torch.autograd.Function):
    """`torch.nn.functional.linear` on [M, I] rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            _product(grad, weight.t()) if for_x else None,
            _product(grad.t(), x.t()) if for_weight else None,
            grad.sum(dim=0) if for_bias else None,
        )


class FastLinear(nn.Linear):
    """A linear layer that computes float32 rows on the CPU with oneDNN.

    Attributes:
        packed: the weight in oneDNN's own order inside `packed_weights`, else None.
    """

    packed: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        rows = input.numel() // max(1, input.shape[-1])
        if not _serves(input, self.weight, rows):
            return super().forward(input)
        flat = input.reshape(rows, input.shape[-1])
        packed = self.packed  # read once: another thread's decoding may end meanwhile
        if packed is None or torch.is_grad_enabled():
            out = fast_product(flat, self.weight, self.bias)
        else:
            out = _product(flat, packed, self.bias)
        return out.view(*input.shape[:-1], self.out_features)


def _serves(x: Tensor, weight: Tensor, rows: int) -> bool:
    """Whether oneDNN may multiply: enough rows, float32 on the CPU, no autocast."""
    return (
        rows >= _MIN_ROWS
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
    )


def fast_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear` of rows [M, I], by the faster library where there is one.

    Args:
        x: [M, I] rows.
        weight: [O, I].
        bias: [O].

    Returns:
        [M, O], differentiable once.
    """
    if not (fast_linears_help() and _serves(x, weight, x.shape[0])):
        return nn.functional.linear(x, weight, bias)
    if torch.is_grad_enabled():
        out: Tensor = _Linear.apply(x, weight, bias)
        return out
    return _product(x, weight, bias)


def use_fast_linears(model: nn.Module) -> int:
    """Lets all plain linear layers of a model compute with oneDNN, where that is faster.

    Call it before or after adapters are added; it may be called again.

    Args:
        model: any model; its `torch.nn.Linear` layers are changed in place, subclasses are not.

    Returns:
        The number of layers changed: 0 on machines that would not gain.
    """
    if not fast_linears_help():
        return 0
    plain = [module for module in model.modules() if type(module) is nn.Linear]
    for module in plain:
        module.__class__ = FastLinear
    return len(plain)


@contextmanager
def packed_weights(model: nn.Module, rows: int) -> Iterator[None]:
    """Keeps the weights of all fast linear layers in oneDNN's own order inside the block.

    Decoding multiplies few rows by every weight many times; without this each product would first
    put its weight in order. The weights must not change inside the block, and gradients are not
    recorded through packed weights.

    Args:
        model: a model after `use_fast_linears`; nothing happens to layers of other classes.
        rows: rows that are usually multiplied at once.
    """
    layers = [module for module in model.modules() if isinstance(module, FastLinear)]
    try:
        for layer in layers:
            if layer.weight.dtype == torch.float32 and layer.weight.device.type == "cpu":
                layer.packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), rows)
        yield
    finally:
        for layer in layers:
            layer.packed = None
