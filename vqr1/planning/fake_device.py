"""An accelerator that is not there: what a program would ask of it, counted without one.

Tensors on it (`DeviceTensor`) are PyTorch's meta tensors, which have shapes, types and storages and
no numbers, under the name of a device of their own. Tensors of the host are real and stay as they
are. `FakeDevice` counts, by phase of the program, what reaches the device:

- launches by kind, bytes read and written (each operand once), casts between types;
- host synchronisations, each with the line that waits: values that are asked for, copies that are
  waited for, results whose size depends on values;
- tensors of the host handed to an operation of the device;
- the most memory, and what holds it.

Small tensors carry their values along, so that lengths and masks are right; whoever asks for any
other value gets zeros, or true. Attention and norms take the kernels that CUDA has for them, and
autocast casts what the installed PyTorch's header has in its lists for CUDA.

Not seen: workspaces inside kernels, fragmentation, the driver's context, time. Not here: what is
run (`vqr1.training.dry_run`), how operations are classed (`device_counts.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from vqr1.planning import fake_kernels
from vqr1.planning.device_counts import EXCHANGES, DeviceCounts
from vqr1.planning.fake_ranks import exchanged
from vqr1.planning.fake_tensor import NAME, DeviceTensor, leaves, mapped

INTEGERS, FLOATS = 2**20, 2**14
"""Most numbers of a tensor whose values are carried along: rewards of some hundred images, too."""

_DYNAMIC = {"nonzero", "masked_select", "_unique2", "unique_consecutive", "unique_dim"}
_FAKE: Any = torch._C._TorchDispatchModeKey.FAKE
_OWN = {Tensor, nn.Parameter, DeviceTensor}
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}


class FakeDevice(TorchDispatchMode):
    """The device: a context in which `torch.device("fake")` is one.

    Attributes:
        counts: what was asked of it.
    """

    def __init__(self) -> None:
        super().__init__()
        fake_kernels.register()
        self.counts = DeviceCounts()
        self._stack = ExitStack()

    def __enter__(self) -> FakeDevice:
        DeviceTensor.runner = self.run
        # Backward passes run on threads of the device, which would not see the mode.
        self._stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        functional = nn.functional
        for owner, name, own in (
            (functional, "scaled_dot_product_attention", fake_kernels.attention),
            (functional, "rms_norm", fake_kernels.rms_norm),
            (torch, "tensor", fake_kernels.tensor),
            (torch.UntypedStorage, "resize_", self._resizing()),
        ):
            self._stack.enter_context(patch.object(owner, name, own))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._stack.close()
        DeviceTensor.runner = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in leaves(args, kwargs) if isinstance(x, Tensor)]
        asked = kwargs.get("device")
        here = asked is not None and torch.device(asked).type == NAME
        if torch._C._get_dispatch_mode(_FAKE) is not None:
            return func(*args, **kwargs)  # sharded tensors ask for the shape of a result
        if any(issubclass(kind, Tensor) and kind not in _OWN for kind in types):
            return NotImplemented  # sharded tensors: their shards come here again
        if not here and not any(isinstance(x, DeviceTensor) for x in tensors):
            return func(*args, **kwargs)
        return self.run(func, args, kwargs)

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """One operation that the device takes part in."""
        name = func._schema.name.split("::")[-1]
        if func.namespace in EXCHANGES:
            result = exchanged(func, name, args)
            self.counts.operation(func, name, args, kwargs, result)
            return result
        if name in ("_local_scalar_dense", "is_nonzero", "equal"):
            return self._asked(name, args)
        if name == "_to_copy" or name == "copy_":
            moved = self._moved(name, args, kwargs)
            if moved is not None:
                return moved
        if name in _INDEXED:
            args = (args[0], [self._numbers(name, index) for index in args[1]], *args[2:])
        if name in _DYNAMIC:
            self.counts.sync(name)
            with _disable_current_modes():
                return mapped(_sent, func(*_values(args), **_values(kwargs)))
        self.counts.mixed(name, args, kwargs)
        with _disable_current_modes():
            out = func(*mapped(_inner, args), **mapped(_inner, kwargs))
            values = _followed(func, args, kwargs, out)
        result = _wrapped(out, values, args, kwargs)
        self.counts.operation(func, name, args, kwargs, result)
        return result

    def _resizing(self) -> Callable[..., Any]:
        """As PyTorch's; FSDP2 takes and frees the memory of unsharded weights so."""
        resize = torch.UntypedStorage.resize_

        def resized(storage: Any, size: int) -> Any:
            result = resize(storage, size)
            self.counts.resized(storage)
            return result

        return resized

    def _asked(self, name: str, args: Any) -> Any:
        self.counts.sync(name)
        values = [_value(x) for x in args if isinstance(x, Tensor)]
        with _disable_current_modes():
            return torch.equal(*values) if name == "equal" else values[0].item()

    def _moved(self, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """A copy between host and device; None of one that stays on the device."""
        source = args[1] if name == "copy_" else args[0]
        target = (
            args[0].device
            if name == "copy_"
            else torch.device(kwargs.get("device") or source.device)
        )
        if not isinstance(source, DeviceTensor):
            waits = not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2))
            self.counts.transfer(source, "host to device" if waits else None)
            dtype = kwargs.get("dtype") or args[0].dtype
            with _disable_current_modes():
                inner = torch.empty_like(source, dtype=dtype, device="meta")
                # A model's weights are not copied for nothing.
                value = source.to(dtype).clone() if _carried(inner) else None
                made = DeviceTensor(inner, value)
            if name == "copy_":
                args[0].value = made.value
                return args[0]
            self.counts.made([made], "_to_copy")
            return made
        if target.type == NAME:
            return None
        self.counts.transfer(source, "device to host")
        with _disable_current_modes():
            value = _value(source).to(kwargs.get("dtype") or args[0].dtype)
            if name == "copy_":
                return args[0].copy_(value)
            return value.clone() if _carried(value) else value

    def _numbers(self, name: str, index: Any) -> Any:
        """A boolean index as numbers of rows, whose count is waited for."""
        if not isinstance(index, Tensor) or index.dtype != torch.bool:
            return index
        if isinstance(index, DeviceTensor):
            self.counts.sync(f"{name} by a mask")
        with _disable_current_modes():
            return _sent(_value(index).nonzero()[:, 0])


def _inner(x: Any) -> Any:
    if isinstance(x, DeviceTensor):
        return x.meta_tensor
    if isinstance(x, Tensor):
        return torch.empty_like(x, device="meta")
    return torch.device("meta") if isinstance(x, torch.device) and x.type == NAME else x


def _value(x: Tensor) -> Tensor:
    """A tensor's numbers; zeros, or true, where they are not known."""
    if not isinstance(x, DeviceTensor):
        return x
    if x.value is not None:
        return x.value
    if not _carried(x):
        # Untouched: weights that are fetched to the host take no memory of it.
        return torch.empty(x.shape, dtype=x.dtype)
    return torch.full(x.shape, x.dtype == torch.bool, dtype=x.dtype)


def _values(args: Any) -> Any:
    return mapped(lambda x: _value(x) if isinstance(x, Tensor) else x, args)


def _small(value: Tensor) -> Tensor | None:
    return value if _carried(value) else None


def _carried(x: Tensor) -> bool:
    return x.numel() <= (FLOATS if x.is_floating_point() else INTEGERS)


def _sent(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return DeviceTensor(torch.empty_like(value, device="meta"), _small(value))


def _followed(func: Any, args: Any, kwargs: Any, out: Any) -> list[Tensor] | None:
    """Results of the operation on values; None where not all are known, or a result is large."""
    flat = [x for x in leaves(args, kwargs) if isinstance(x, DeviceTensor)]
    outs = [x for x in leaves(out) if isinstance(x, Tensor)]
    if any(x.value is None for x in flat) or not all(map(_carried, outs)):
        return None
    host = torch.device("cpu")
    take = lambda x: host if isinstance(x, torch.device) else x  # noqa: E731
    found = func(*mapped(take, _values(args)), **mapped(take, _values(kwargs)))
    return [x for x in leaves(found) if isinstance(x, Tensor)]


def _wrapped(out: Any, values: list[Tensor] | None, args: Any, kwargs: Any) -> Any:
    """Results as tensors of the device; an operand that was written is itself."""
    known = {id(x.meta_tensor): x for x in leaves(args, kwargs) if isinstance(x, DeviceTensor)}
    rest = None if values is None else iter(values)

    def wrap(inner: Any) -> Any:
        if not isinstance(inner, Tensor):
            return inner
        value = None if rest is None else next(rest)
        if id(inner) not in known:
            return DeviceTensor(inner, value)
        if value is None:
            known[id(inner)].value = None
        return known[id(inner)]

    return mapped(wrap, out)


def on_device(model: nn.Module) -> nn.Module:
    """A meta model's weights as tensors of the device, in place; tied ones stay tied."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, weight in list(module._parameters.items()):
            if weight is not None:
                kept = made.get(id(weight))
                if kept is None:
                    kept = nn.Parameter(torch.empty_like(weight, device=NAME), weight.requires_grad)
                    made[id(weight)] = kept
                module._parameters[name] = kept
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = torch.empty_like(buffer, device=NAME)
    return model


@contextmanager
def fake_device() -> Iterator[FakeDevice]:
    """The device for the length of a block."""
    with FakeDevice() as device:
        yield device
