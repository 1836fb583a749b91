"""Checkpoint files: written whole or not at all, and believed only if their checksum agrees.

A checkpoint `step_00000050.ckpt` is written aside and renamed (`vqr1.durable`); beside it
`step_00000050.ckpt.sha256` holds size and SHA-256, in place before the rename; those of a file that
is about to be replaced stay beside them, so that a kill between the two leaves either file intact.
A file without its checksum, or with another one, is damaged: the newest intact one before it is
used. Nothing is unpickled (`weights_only=True`).

Not here: what a checkpoint holds, and when one is written (`callbacks/checkpoints.py`); the tensors
of sharded runs, which lie beside it (`checkpoint_shards.py`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from vqr1.distributed.collectives import (
    broadcast_from_rank0,
    get_rank,
    get_world_size,
    raise_on_all_ranks,
)
from vqr1.durable import make_folder, replacing, write_file
from vqr1.training.checkpoint_shards import SHARDS, all_read, damaged_shards, put_back

logger = logging.getLogger(__name__)

CHECKSUM = ".sha256"
MARGIN_BYTES = 4 * 2**20
"""Room beyond a checkpoint's tensors: everything else in the file, and its neighbours."""
_BLOCK = 2**22


class CheckpointNotWrittenError(Exception):
    """A checkpoint could not be written; whatever was there before still is."""


class CheckpointDamagedError(Exception):
    """A checkpoint is not what was written."""


def step_name(kind: str, step: int) -> str:
    """File name of a checkpoint: kind (`step` or `best`) and optimiser steps done."""
    return f"{kind}_{step:08d}.ckpt"


def step_of(path: Path) -> int:
    """Optimiser steps done, from a file name of `step_name`."""
    return int(path.stem.rpartition("_")[2])


def checkpoints(folder: Path, kind: str) -> list[Path]:
    """The complete checkpoint files of a kind, oldest first."""
    return sorted(folder.glob(f"{kind}_" + "[0-9]" * 8 + ".ckpt"))


def write_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint so that `path` is never a part of one.

    Args:
        content: plain containers and tensors.
        path: the file; its folder is made.

    Raises:
        CheckpointNotWrittenError: too little room, or the write failed; no partial file is left.
    """
    try:
        make_folder(path.parent)
        check_room(_bytes_of(content), path.parent)
        with replacing(path) as aside:
            with aside.open("wb") as file:
                writer = _HashingWriter(file)
                _save(content, writer)
            _write_checksum(path, writer)
    except OSError as error:
        raise CheckpointNotWrittenError(f"{path}: {error.strerror or error}") from error


def verify_checkpoint(path: Path) -> None:
    """Compare a checkpoint, and the shards that it names, with their checksums.

    Raises:
        CheckpointDamagedError: no checksum, or another one.
    """
    _check_shards(_verified_shards(path), path.parent)


def verify_on_all_ranks(path: Path) -> None:
    """`verify_checkpoint` by all ranks at once: rank 0 reads the file, each a share of the shards.

    Raises:
        CheckpointDamagedError: on all ranks, where one of them found damage.
    """
    kinds = (CheckpointDamagedError,)
    shards = broadcast_from_rank0(lambda: _verified_shards(path), kinds)
    share = get_rank(), get_world_size()
    raise_on_all_ranks(lambda: _check_shards(shards, path.parent, *share), kinds)


def _verified_shards(path: Path) -> dict[str, str]:
    """Folders of shards, each with its digest, that a verified file names."""
    _verified(path)
    shards: dict[str, str] = _load(path, mapped=True).get(SHARDS, {})
    return shards


def _check_shards(shards: Mapping[str, str], place: Path, rank: int = 0, ranks: int = 1) -> None:
    damage = damaged_shards(shards, place, rank, ranks)
    if damage is not None:
        raise CheckpointDamagedError(damage)


def _verified(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of a file that agrees with its checksum."""
    try:
        written = _written(path)
        size = path.stat().st_size
        if size not in (size_then for size_then, _ in written):
            raise CheckpointDamagedError(
                f"{path}: {size} bytes instead of the {written[0][0]} that were written"
            )
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if (size, digest) not in written:
            raise CheckpointDamagedError(f"{path}: its SHA-256 is not that of what was written")
    except FileNotFoundError as error:
        raise CheckpointDamagedError(f"{error.filename}: missing") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointDamagedError(f"{path.name}{CHECKSUM}: not a checksum file") from error
    except OSError as error:
        raise CheckpointDamagedError(f"{path}: cannot be read ({error.strerror})") from error
    return size, digest


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Verify and load a checkpoint onto the CPU, mapped, with all of its tensors.

    Raises:
        CheckpointDamagedError: it is not what was written.
    """
    verify_checkpoint(path)
    content: dict[str, Any] = all_read(load_checkpoint(path, mapped=True))
    return content


def load_checkpoint(path: Path, mapped: bool) -> dict[str, Any]:
    """A verified checkpoint on the CPU; of a sharded run, a `StoredTensor` for every tensor.

    Args:
        path: the file.
        mapped: into memory, which processes of a machine share until they have copied it.
    """
    return put_back(_load(path, mapped), path.parent)


def _load(path: Path, mapped: bool) -> dict[str, Any]:
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    assert isinstance(content, dict)
    return content


def newest_intact(folder: Path, kind: str) -> Path | None:
    """The newest checkpoint that agrees with its checksum; damaged ones are named in the log.

    All ranks call it, verify together, and get the same one.
    """
    for path in reversed(broadcast_from_rank0(lambda: checkpoints(folder, kind))):
        try:
            verify_on_all_ranks(path)
        except CheckpointDamagedError as error:
            logger.warning("damaged checkpoint left aside: %s", error)
        else:
            return path
    return None


def superseded(paths: Sequence[Path], sound: Set[int], keep: int) -> list[Path]:
    """The checkpoints that are not needed once a state is saved.

    Args:
        paths: all of a kind, oldest first.
        sound: steps of those that belong to this run as it went; a file of another step is what a
            damaged one left, and counts for nothing.
        keep: how many of the sound ones stay.
    """
    kept = [path for path in paths if step_of(path) in sound][-keep:]
    return [path for path in paths if path not in kept]


def remove_checkpoint(path: Path) -> None:
    """Delete a checkpoint and then its checksum."""
    path.unlink(missing_ok=True)
    path.with_name(path.name + CHECKSUM).unlink(missing_ok=True)


class _HashingWriter:
    """Passes bytes on and digests them; keeps the error of a write, which torch would reword."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.bytes = 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            written = self._write(data)
        except OSError as error:
            self.error = error
            raise
        self._digest.update(data)
        self.bytes += written
        return written

    def _write(self, data: Any) -> int:
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def _save(content: Mapping[str, Any], writer: _HashingWriter) -> None:
    try:
        torch.save(dict(content), writer)  # type: ignore[arg-type]  # it only writes and flushes
    except RuntimeError:
        if writer.error is None:
            raise
        raise writer.error from None


def _written(path: Path) -> list[tuple[int, str]]:
    """Size and SHA-256 of what was written last, and of what that replaced."""
    found = json.loads(path.with_name(path.name + CHECKSUM).read_text(encoding="utf-8"))
    parts = [found, found["replaced"]] if "replaced" in found else [found]
    return [(int(part["bytes"]), str(part["sha256"])) for part in parts]


def _write_checksum(path: Path, writer: _HashingWriter) -> None:
    content: dict[str, Any] = {"bytes": writer.bytes, "sha256": writer.sha256}
    with suppress(CheckpointDamagedError):  # also where there is nothing to replace
        size, digest = _verified(path)
        content["replaced"] = {"bytes": size, "sha256": digest}
    write_file(path.with_name(path.name + CHECKSUM), json.dumps(content))


def check_room(needed: int, folder: Path) -> None:
    """Look whether a disk takes so many bytes of tensors.

    Raises:
        OSError: it has less room.
    """
    needed += MARGIN_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(0, f"{needed / 2**20:.0f} MiB are needed and {free / 2**20:.0f} are free")


def _bytes_of(content: Mapping[str, Any]) -> int:
    tensors = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors(content)
    }
    return sum(tensors.values())


def _tensors(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
