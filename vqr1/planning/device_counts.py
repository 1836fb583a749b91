"""What a program asked of a device, by phase.

Not here: the device (`fake_device.py`), what the counts should be.
"""

from __future__ import annotations

import sys
import weakref
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from vqr1.planning.fake_tensor import leaves

BLOCK = 512
"""Bytes that PyTorch's allocator rounds up to."""

_FREE = {
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "alias",
    "lift_fresh", "is_same_size", "_unsafe_view", "_reshape_alias", "resize_", "set_",
    "wait_tensor", "_wrap_tensor_autograd",
}  # fmt: skip
_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "convolution", "convolution_backward"}
_COPIES = {"_to_copy", "copy_", "clone", "_foreach_copy_"}
EXCHANGES = ("c10d", "_c10d_functional")
"""Namespaces of operations between ranks."""

_ROWS = {
    "index", "index_select", "index_put", "index_put_", "_index_put_impl_", "gather", "scatter",
    "scatter_", "index_copy", "index_copy_", "index_add", "index_add_", "embedding", "cat", "stack",
    "embedding_dense_backward", "slice_scatter", "select_scatter", "slice_backward",
    "select_backward",
}  # fmt: skip


@cache
def is_view(func: Any) -> bool:
    """Whether an operation's result shares memory with an operand and nothing is written."""
    aliases = [a.alias_info for a in func._schema.arguments if a.alias_info is not None]
    return bool(aliases) and not any(alias.is_write for alias in aliases)


@cache
def writes(func: Any) -> bool:
    """Whether an operation writes into an operand."""
    return any(a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments)


def kind_of(name: str, source: Tensor | None, result: Tensor | None) -> str:
    """Class of an operation: product, attention, cast, copy, rows or other."""
    if name in _PRODUCTS:
        return "product"
    if "scaled_dot_product" in name or "flash_attention" in name:
        return "attention"
    if name in _COPIES and source is not None and result is not None:
        return "cast" if source.dtype != result.dtype else "copy"
    return "rows" if name in _ROWS else "other"


def bytes_of(tensor: Tensor) -> int:
    """Bytes of a tensor's numbers."""
    return tensor.numel() * tensor.element_size()


@dataclass
class Phase:
    """Counts of one phase.

    Attributes:
        launches: by kind.
        bytes: read and written, by kind.
        syncs: by what waits and where.
        mixed: tensors of the host given to operations of the device, by operation and line.
        peak: most bytes alive.
        holders: at the peak, bytes by the line that made them.
    """

    launches: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    syncs: Counter[str] = field(default_factory=Counter)
    mixed: Counter[str] = field(default_factory=Counter)
    peak: int = 0
    holders: Counter[str] = field(default_factory=Counter)

    @property
    def traffic(self) -> int:
        """Bytes read and written; what goes to other ranks is another link's."""
        return sum(self.bytes.values()) - self.bytes["exchange"]

    @property
    def waits(self) -> int:
        """Host synchronisations."""
        return sum(self.syncs.values())


class DeviceCounts:
    """Counts by phase, and the storages that are alive.

    Attributes:
        phases: by name.
        live: bytes alive.
    """

    def __init__(self) -> None:
        self.phases: dict[str, Phase] = defaultdict(Phase)
        self.live = 0
        self._name = "setup"
        self._alive: dict[int, tuple[int, str]] = {}

    @property
    def phase(self) -> Phase:
        """The current one."""
        return self.phases[self._name]

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Count as another phase inside the block."""
        before, self._name = self._name, name
        self._grown()
        try:
            yield
        finally:
            self._name = before

    def fresh(self) -> None:
        """Forget all counts; what is alive stays."""
        self.phases.clear()

    def sync(self, what: str) -> None:
        """The host waits."""
        self.phase.syncs[f"{what} @ {line()}"] += 1

    def transfer(self, source: Tensor, waits: str | None) -> None:
        """A copy between host and device."""
        self.phase.launches["transfer"] += 1
        self.phase.bytes["transfer"] += bytes_of(source)
        if waits is not None:
            self.sync(waits)

    def mixed(self, name: str, args: Any, kwargs: Any) -> None:
        """Tensors of the host among the operands, single numbers apart."""
        for x in leaves(args, kwargs):
            if isinstance(x, Tensor) and x.device.type == "cpu" and x.dim():
                self.phase.mixed[f"{name} {tuple(x.shape)} @ {line()}"] += 1

    def operation(self, func: Any, name: str, args: Any, kwargs: Any, result: Any) -> None:
        """An operation on the device."""
        results = [x for x in leaves(result) if hasattr(x, "meta_tensor")]
        operands = [x for x in leaves(args, kwargs) if hasattr(x, "meta_tensor")]
        self.made(results, name)
        if is_view(func) or name in _FREE:
            return
        target = results[0] if results else operands[0] if operands else None
        source = operands[-1] if operands else None
        exchange = func.namespace in EXCHANGES
        kind = "exchange" if exchange else kind_of(name, source, target)
        self.phase.launches[kind] += 1
        self.phase.bytes[kind] += _moved(kind, func, operands, results)

    def made(self, results: Sequence[Any], name: str) -> None:
        """New storages among results."""
        for x in results:
            storage = x.meta_tensor.untyped_storage()
            key = storage._cdata
            if key in self._alive or not storage.nbytes():
                continue
            size = -(-storage.nbytes() // BLOCK) * BLOCK
            where = f"{name} @ {line()}" if size >= 2**22 else "small"
            self._alive[key] = (size, where)
            self.live += size
            weakref.finalize(storage, self._freed, key)
            self._grown()

    def resized(self, storage: torch.UntypedStorage) -> None:
        """Memory of a storage was taken or freed."""
        if storage._cdata not in self._alive:
            return
        size, where = self._alive[storage._cdata]
        now = -(-storage.nbytes() // BLOCK) * BLOCK
        self._alive[storage._cdata] = (now, where)
        self.live += now - size
        self._grown()

    def _freed(self, key: int) -> None:
        size, _ = self._alive.pop(key)
        self.live -= size

    def _grown(self) -> None:
        phase = self.phase
        if self.live <= phase.peak:
            return
        # Who holds it is looked at where the peak has moved by a percent.
        if self.live > 1.01 * sum(phase.holders.values()):
            phase.holders = Counter()
            for size, where in self._alive.values():
                phase.holders[where] += size
        phase.peak = self.live


def _moved(kind: str, func: Any, operands: Sequence[Tensor], results: Sequence[Tensor]) -> int:
    """Bytes that an operation reads and writes; of rows those that are chosen, of exchanges all."""
    if kind == "exchange":
        return max(map(bytes_of, [*operands, *results]))
    if kind == "rows":
        written = results[0] if results and not writes(func) else operands[-1]
        return 2 * bytes_of(written)
    moved = sum(map(bytes_of, operands))
    if writes(func):
        return moved + (bytes_of(operands[0]) if operands else 0)
    return moved + sum(map(bytes_of, results))


def line() -> str:
    """file:line of the nearest frame of this package, or of whatever called; backward nodes too."""
    frame, library = sys._getframe(1), ""
    while frame is not None:
        file = frame.f_code.co_filename
        own = "/vqr1/" in file and "/planning/" not in file
        if own:
            return f"vqr1/{file.split('/vqr1/')[-1]}:{frame.f_lineno}"
        if not library and "/site-packages/torch/" not in file and "/planning/" not in file:
            library = f"{file.rsplit('/', 1)[-1]}:{frame.f_lineno}"
        next_frame = frame.f_back
        if next_frame is None:
            break
        frame = next_frame
    node = torch._C._current_autograd_node()
    return f"backward of {node.name()}" if node is not None else library
