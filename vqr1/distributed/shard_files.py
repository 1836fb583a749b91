"""Tensors of several ranks in one folder: a safetensors file a rank, and an index of all.

PyTorch's distributed checkpoint (DCP) plans them: each rank writes the shards that it holds, one of
the ranks a tensor that all of them hold, and any number of ranks reads what any number has written.

    rank_00001_of_00008.safetensors  shards, with their offsets as DCP's Hugging Face reader expects
    index.json                       files (bytes, SHA-256); tensors (type, shape, shards)

Nothing is unpickled: DCP's `.metadata` is neither written nor looked for, and no file counts that
the index does not name. Every tensor passes through host memory by itself.

Not here: what is saved, and when a folder counts (`vqr1.training.checkpoint_shards`).
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    SavePlan,
    SavePlanner,
    WriteItem,
)
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.distributed.tensor import DTensor
from torch.futures import Future

from vqr1.durable import replacing, write_file

INDEX = "index.json"

TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""Types by their names in safetensors files."""

_NAMES = {dtype: name for name, dtype in TYPES.items()}


@dataclass(frozen=True)
class Shard:
    """Where a part of a tensor is.

    Attributes:
        file: its name in the folder.
        offsets: of its first number in the tensor.
        shape: its own.
    """

    file: str
    offsets: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a folder, not read yet.

    Attributes:
        folder: the folder.
        name: in its files.
        dtype: its type.
        shape: the whole one.
        shards: its parts.
    """

    folder: Path
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    shards: tuple[Shard, ...]

    def read(self) -> Tensor:
        """The whole tensor on the CPU; mapped where it is in one file."""
        whole = torch.empty(0)
        for shard in self.shards:
            with safe_open(self.folder / shard.file, framework="pt") as file:
                part = file.get_tensor(self.name)
            if shard.shape == self.shape:
                return part
            if not whole.numel():
                whole = torch.empty(self.shape, dtype=self.dtype)
            whole[_box(shard.offsets, shard.shape)] = part
        return whole if self.shards else torch.empty(self.shape, dtype=self.dtype)


@dataclass(frozen=True)
class _Written:
    """A shard, and the file that it is in."""

    shard: Shard
    bytes: int
    sha256: str


def write_shards(tensors: Mapping[str, Tensor], folder: Path) -> str:
    """Write tensors from all ranks; all of them call it, with the same names.

    Args:
        tensors: sharded ones, and ones that are the same on every rank.
        folder: there and empty; everything in it is synced when this returns.

    Returns:
        SHA-256 of the index, on every rank.

    Raises:
        OSError: on all ranks, where one of them could not write.
    """
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    # DCP gives each of those that all ranks hold to the rank that has the least so far, and counts
    # all shards of rank 0 before any of the others.
    names = sorted(tensors, key=lambda name: isinstance(tensors[name], DTensor))
    ordered = {name: tensors[name] for name in names}
    with _first_failure():
        found = dcp.save(ordered, storage_writer=_Writer(folder), planner=planner)
    return str(found.storage_data)


def read_shards(targets: Mapping[str, Tensor], stored: Sequence[StoredTensor]) -> None:
    """Fill tensors from one folder, on all ranks at once: each reads what its own shards cover.

    Args:
        targets: by stored name, of the stored shapes; sharded over any number of ranks.
        stored: those that are asked for, at least.

    Raises:
        ValueError: another shape.
        OSError: a file cannot be read.
    """
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    with _first_failure(), torch.no_grad():
        dcp.load(dict(targets), storage_reader=_Reader(stored), planner=planner)


def read_index(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a folder, whose index is as it was written."""
    tensors = json.loads((folder / INDEX).read_text(encoding="utf-8"))["tensors"]
    return {
        name: StoredTensor(
            folder,
            name,
            TYPES[found["dtype"]],
            tuple(found["shape"]),
            tuple(
                Shard(part["file"], tuple(part["offsets"]), tuple(part["shape"]))
                for part in found["shards"]
            ),
        )
        for name, found in tensors.items()
    }


def damage_of(folder: Path, digest: str, rank: int = 0, ranks: int = 1) -> str | None:
    """What is wrong with a folder, in one line; None where all files are as they were written.

    Args:
        folder: the folder.
        digest: as `write_shards` returned it.
        rank: which of the ranks looks; all read the index, each its share of the other files.
        ranks: how many look.
    """
    path = folder / INDEX
    try:
        text = path.read_bytes()
        if hashlib.sha256(text).hexdigest() != digest:
            return f"{path}: its SHA-256 is not that of what was written"
        index = json.loads(text)
        parts = (part for found in index["tensors"].values() for part in found["shards"])
        unlisted = {part["file"] for part in parts} - {*index["files"]}
        if unlisted or any(Path(name).name != name for name in index["files"]):
            return f"{path}: files of other folders, or without a checksum"
        for name in sorted(index["files"])[rank::ranks]:
            path, expected = folder / name, index["files"][name]
            size = path.stat().st_size
            if size != expected["bytes"]:
                return f"{path}: {size} bytes instead of the {expected['bytes']} that were written"
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
                    return f"{path}: its SHA-256 is not that of what was written"
    except FileNotFoundError:
        return f"{path}: missing"
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror})"
    return None


def bytes_of(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of whole tensors, over all ranks."""
    return sum(value.numel() * value.element_size() for value in tensors.values())


class _Writer(StorageWriter):
    """One file a rank and, from rank 0, the index.

    Args:
        folder: there and empty.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def reset(self, checkpoint_id: Any = None) -> None:
        """See `StorageWriter`."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """See `StorageWriter`."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """See `StorageWriter`."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Name the files."""
        return [
            replace(plan, storage_data=f"rank_{rank:05d}_of_{len(plans):05d}.safetensors")
            for rank, plan in enumerate(plans)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's file."""
        done: Future[list[WriteResult]] = Future()
        done.set_result(_write_file(self._folder / plan.storage_data, plan.items, planner))
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the index; its digest goes to all ranks with the metadata."""
        tensors: dict[str, Any] = {}
        for name, found in metadata.state_dict_metadata.items():
            assert isinstance(found, TensorStorageMetadata)
            dtype = _NAMES[found.properties.dtype]
            tensors[name] = {"dtype": dtype, "shape": list(found.size), "shards": []}
        files = {}
        for result in chain.from_iterable(results):
            written: _Written = result.storage_data
            tensors[result.index.fqn]["shards"].append(asdict(written.shard))
            files[written.shard.file] = {"bytes": written.bytes, "sha256": written.sha256}
        text = json.dumps({"files": files, "tensors": tensors}, indent=1)
        write_file(self._folder / INDEX, text)
        metadata.storage_data = hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """See `StorageWriter`."""
        return True


class _Reader(StorageReader):
    """Reads what the index names.

    Args:
        stored: tensors of one folder.
    """

    def __init__(self, stored: Sequence[StoredTensor]) -> None:
        self._stored = {tensor.name: tensor for tensor in stored}

    def reset(self, checkpoint_id: Any = None) -> None:
        """See `StorageReader`."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The shapes; a shard's number in the index is its number here."""
        return Metadata(
            {
                name: TensorStorageMetadata(
                    TensorProperties(tensor.dtype),
                    torch.Size(tensor.shape),
                    [
                        ChunkStorageMetadata(torch.Size(part.offsets), torch.Size(part.shape))
                        for part in tensor.shards
                    ],
                )
                for name, tensor in self._stored.items()
            }
        )

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        """See `StorageReader`."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """See `StorageReader`."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """See `StorageReader`."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Copy what the plan asks for, file by file."""
        by_file: dict[Path, list[Any]] = {}
        for item in plan.items:
            tensor = self._stored[item.storage_index.fqn]
            assert item.storage_index.index is not None
            file = tensor.folder / tensor.shards[item.storage_index.index].file
            by_file.setdefault(file, []).append(item)
        for path, items in by_file.items():
            with safe_open(path, framework="pt") as file:
                for item in items:
                    name, lengths = item.storage_index.fqn, item.lengths
                    part = (
                        file.get_slice(name)[_box(item.storage_offsets, lengths)]
                        if lengths
                        else file.get_tensor(name)
                    )
                    planner.resolve_tensor(item).detach().copy_(part)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """See `StorageReader`."""
        return True


def _write_file(path: Path, items: Sequence[WriteItem], planner: SavePlanner) -> list[WriteResult]:
    """Write shards in the format of safetensors, and digest them on the way."""
    # Wide types first: every tensor then lies where its type asks for.
    ordered = sorted(items, key=lambda item: (-_type(item).itemsize, item.index.fqn))
    ordered = [item for item in ordered if 0 not in _chunk(item).sizes]
    if not ordered:
        return []
    head = _header(ordered)
    digest, size = hashlib.sha256(), 0
    with replacing(path) as aside, aside.open("wb") as file:
        for data in chain([head], (_bytes(planner.resolve_data(item)) for item in ordered)):
            file.write(data)
            digest.update(data)
            size += len(data)
    results = []
    for item in ordered:
        chunk = _chunk(item)
        shard = Shard(path.name, tuple(chunk.offsets), tuple(chunk.sizes))
        written = _Written(shard, size, digest.hexdigest())
        results.append(WriteResult(item.index, _length(item), written))
    return results


def _header(items: Sequence[WriteItem]) -> bytes:
    entries: dict[str, Any] = {}
    start = 0
    for item in items:
        end = start + _length(item)
        entries[item.index.fqn] = {
            "dtype": _NAMES[_type(item)],
            "shape": list(_chunk(item).sizes),
            "data_offsets": [start, end],
        }
        start = end
    assert len(entries) == len(items), "a rank holds one shard of a tensor"
    offsets = {item.index.fqn: {"saved_offsets": list(_chunk(item).offsets)} for item in items}
    entries["__metadata__"] = {"format": "pt", "DCP_SHARDING_INFO": json.dumps(offsets)}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _chunk(item: WriteItem) -> ChunkStorageMetadata:
    assert item.tensor_data is not None
    return item.tensor_data.chunk


def _type(item: WriteItem) -> torch.dtype:
    assert item.tensor_data is not None
    return item.tensor_data.properties.dtype


def _length(item: WriteItem) -> int:
    return math.prod(_chunk(item).sizes) * _type(item).itemsize


def _bytes(value: Any) -> Any:
    assert isinstance(value, Tensor)
    value = value.to_local() if isinstance(value, DTensor) else value
    flat = value.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())


def _box(offsets: Sequence[int], lengths: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(o, o + n) for o, n in zip(offsets, lengths, strict=True))


@contextmanager
def _first_failure() -> Iterator[None]:
    """Raise what the lowest rank that failed has met; DCP wraps it in an error of its own."""
    try:
        with warnings.catch_warnings():
            if not dist.is_initialized():
                warnings.filterwarnings("ignore", "torch.distributed is disabled")
            yield
    except CheckpointException as error:
        raise error.failures[min(error.failures)][0] from None
