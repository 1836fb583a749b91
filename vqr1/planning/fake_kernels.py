"""How PyTorch knows the accelerator that is not there, and what it computes as CUDA does.

Attention and norms take the kernels that CUDA has for them, where a meta device would take them
apart; autocast casts what the installed PyTorch's header lists for CUDA.

Not here: counting (`device_counts.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import backend_registration

from vqr1.planning.fake_tensor import NAME, DeviceTensor, mapped

aten: Any = torch.ops.aten


def _cast(x: Any, dtype: torch.dtype) -> Any:
    wanted = (
        isinstance(x, DeviceTensor)
        and x.is_floating_point()
        and x.dtype not in (dtype, torch.double)
    )
    return x.to(dtype) if wanted else x


_attention = nn.functional.scaled_dot_product_attention
_norm = nn.functional.rms_norm


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Flash for 16-bit types without a mask, else the memory-efficient kernel."""
    if not isinstance(q, DeviceTensor):
        return _attention(
            q, k, v, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if torch.is_autocast_enabled(NAME):
        q, k, v = (_cast(x, torch.get_autocast_dtype(NAME)) for x in (q, k, v))
    if q.dtype in (torch.bfloat16, torch.float16) and attn_mask is None:
        fast: Tensor = aten._scaled_dot_product_flash_attention(
            q, k, v, dropout_p, is_causal, False, scale=scale
        )[0]
        return fast
    if k.shape[1] != q.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    kept = torch.is_grad_enabled() and q.requires_grad
    found = aten._scaled_dot_product_efficient_attention(
        q, k, v, attn_mask, kept, dropout_p, is_causal, scale=scale
    )
    out: Tensor = found[0]
    return out


_made = torch.tensor


def tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
    """Numbers of Python are made on the host, and sent."""
    if device is None or torch.device(device).type != NAME:
        return _made(data, device=device, **options)
    return _made(data, **options).to(device)


class _FusedNorm(torch.autograd.Function):
    """One launch each way, keeping the input and one number a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, x.new_empty((*x.shape[:-1], 1), dtype=torch.float32))
        return x * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight, _ = ctx.saved_tensors
        for_x, for_weight = ctx.needs_input_grad
        return grad * x if for_x else None, torch.empty_like(weight) if for_weight else None


def rms_norm(x: Tensor, shape: Any, weight: Tensor | None = None, eps: Any = None) -> Tensor:
    """In one launch each way."""
    if not isinstance(x, DeviceTensor) or weight is None:
        return _norm(x, shape, weight, eps)
    rows: Tensor = _FusedNorm.apply(x, weight)
    return rows


class _Stream:
    """A queue of launches, or an event in one: nothing is late here."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def _done(self, *_: Any) -> _Stream:
        return self

    wait_stream = wait_event = record_event = record = wait = synchronize = __enter__ = _done

    def __exit__(self, *_: Any) -> None:
        pass


class _Backend(backend_registration._DummyBackendModule):
    """What PyTorch asks the module of a device."""

    Stream = Event = current_stream = stream = _Stream

    def set_device(self, _: int) -> None:
        """There is one."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """Of autocast."""
        return [torch.bfloat16, torch.float16]


_LISTS = {
    "lower": "AT_FORALL_LOWER_PRECISION_FP",
    "full": "AT_FORALL_FP32",
    "typed": "AT_FORALL_FP32_SET_OPT_DTYPE",
}
_LIBRARIES: list[Any] = []


def _autocast_lists() -> dict[str, list[Any]]:
    """Operations that autocast changes on CUDA, as the installed PyTorch's header lists them."""
    header = Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h"
    text = header.read_text(encoding="utf-8").replace("\\\n", " ")
    found = {}
    for kind, macro in _LISTS.items():
        (line,) = re.findall(rf"#define {macro}\(_\)(.*)", text)
        names = re.findall(r"_\((\w+)(?:,\s*(\w+))?\)", line)
        packets = [(getattr(aten, name, None), overload or "default") for name, overload in names]
        found[kind] = [getattr(op, name, None) for op, name in packets if op is not None]
    return found


@cache
def register() -> None:
    """Make the device known to PyTorch; once in a process, and it stays."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
    own = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
    others = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    others.fallback(torch.library.fallthrough_kernel)
    _LIBRARIES.extend([own, others])
    for kind, operations in _autocast_lists().items():
        for operation in filter(None, operations):
            own.impl(operation, _autocast(operation, kind))


_KEYS: Any = torch._C.DispatchKey
_KEY = torch._C.DispatchKeySet(_KEYS.AutocastPrivateUse1)


def _autocast(operation: Any, kind: str) -> Callable[..., Any]:
    def cast(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(_KEY):
            if kind == "typed":
                if args[0].dtype in (torch.bfloat16, torch.float16) and not kwargs.get("dtype"):
                    kwargs["dtype"] = torch.float32
                return operation(*args, **kwargs)
            dtype = torch.get_autocast_dtype(NAME) if kind == "lower" else torch.float32
            args, kwargs = mapped(lambda x: _cast(x, dtype), (args, kwargs))
            return operation(*args, **kwargs)

    return cast
