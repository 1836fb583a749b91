"""A tensor of the accelerator that is not there (`fake_device.py`).

Not here: what an operation on it does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

NAME = "fake"
"""Of the device, as in `torch.device("fake")`."""


def leaves(*values: Any) -> list[Any]:
    """What lists, tuples and dicts hold, in order; several times as fast as PyTorch's pytree."""
    found: list[Any] = []
    for value in values:
        if isinstance(value, list | tuple):
            found += leaves(*value)
        elif isinstance(value, dict):
            found += leaves(*value.values())
        else:
            found.append(value)
    return found


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """Lists, tuples and dicts with a function of each leaf, in order; likewise."""
    if isinstance(value, list):
        return [mapped(function, part) for part in value]
    if isinstance(value, tuple):
        return tuple([mapped(function, part) for part in value])
    if isinstance(value, dict):
        return {key: mapped(function, part) for key, part in value.items()}
    return function(value)


class DeviceTensor(Tensor):
    """A tensor of the device.

    Attributes:
        meta_tensor: of the same shape, strides and type; views share its storage.
        value: its numbers on the host, None where they are not known.
        on_host: a tensor of the host that its `data` was set to; it has no memory meanwhile.
        runner: runs an operation on such tensors, inside the context of a device.
    """

    runner: ClassVar[Callable[..., Any] | None] = None
    meta_tensor: Tensor
    value: Tensor | None
    on_host: Tensor | None
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: Tensor, value: Tensor | None = None) -> DeviceTensor:
        """Of the inner tensor's shape, strides and type."""
        made: DeviceTensor = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(f"{NAME}:0"),
        )
        made.meta_tensor, made.value, made.on_host = inner, value, None
        return made

    def __init__(self, inner: Tensor, value: Tensor | None = None) -> None:
        pass

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"DeviceTensor({self.dtype}, {tuple(self.shape)})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        assert cls.runner is not None, "outside of the device's context"
        return cls.runner(func, args, kwargs or {})

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        """The code asks which kernels there are."""
        return True

    def tolist(self) -> Any:
        """As of any tensor; the device is waited for."""
        return self.cpu().tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        """The memory that it takes."""
        return self.meta_tensor.untyped_storage()

    def data_ptr(self) -> int:
        """Where it is, as a number of its own while its memory lasts."""
        return self.untyped_storage()._cdata + self.storage_offset() * self.element_size()

    @property
    def data(self) -> Tensor:
        """As of any tensor."""
        return self.detach() if self.on_host is None else self.on_host

    @data.setter
    def data(self, other: Tensor) -> None:
        if not isinstance(other, DeviceTensor):
            self.on_host, self.meta_tensor = other, torch.empty(0, device="meta")
            return
        self.on_host, self.meta_tensor, self.value = None, other.meta_tensor, other.value
        with torch.no_grad():
            Tensor.data.__set__(self, other)  # type: ignore[attr-defined]

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            with torch.no_grad():
                made: Tensor = self.detach().clone()
            if getattr(self, "_is_param", False):
                made = nn.Parameter(made, self.requires_grad)
            memo[id(self)] = made
        return memo[id(self)]
