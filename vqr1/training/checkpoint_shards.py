"""The tensors of a sharded run's checkpoint, which lie beside it in folders of shards.

`step_<n>.ckpt` holds everything but tensors: where each of them is in `weights_<n>` (weights) and
`state_<n>` (optimizer state, a moving reference), and the SHA-256 of their indices. It is written
last: a folder counts once a checkpoint names it. `best_<n>.ckpt` names the same `weights_<n>`, so
that weights of a step are written once; a folder goes when no checkpoint of its step is left.

Not here: the files of a folder (`vqr1.distributed.shard_files`), the checkpoint itself
(`checkpoint_files.py`), and who calls this (`strategy.py`).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vqr1.distributed.shard_files import StoredTensor, damage_of, read_index

WEIGHTS, STATE = "weights", "state"
"""Kinds of folders."""

SHARDS = "shards"
"""Key of a checkpoint: its folders' names, each with the SHA-256 of its index."""

_STORED = "stored tensor"
"""Key of what stands for a tensor in a checkpoint: its folder and its name in there."""

_ENTRIES = {"state_dict": WEIGHTS, "optimizer_states": STATE, "reference": STATE}
"""Where the tensors of a checkpoint's entries go; those of all others stay, they are small."""

_NAMED_BY = {WEIGHTS: ("step", "best"), STATE: ("step",)}
"""Kinds of checkpoints that name a kind of folder."""


def folder_name(kind: str, step: int) -> str:
    """Name of a folder: its kind and optimiser steps done."""
    return f"{kind}_{step:08d}"


def take_tensors(
    content: Mapping[str, Any], step: int
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """A checkpoint without its large tensors, and these by folder and name.

    Args:
        content: as Lightning makes it. A tensor that comes twice is taken once.
        step: optimiser steps done.
    """
    taken: dict[str, dict[str, Tensor]] = {}
    names: dict[int, str] = {}
    rest = dict(content)
    for entry, kind in _ENTRIES.items():
        if entry in content:
            into = taken.setdefault(folder_name(kind, step), {})
            rest[entry] = _taken(content[entry], entry, folder_name(kind, step), into, names)
    return rest, {folder: tensors for folder, tensors in taken.items() if tensors}


def _taken(
    value: Any, path: str, folder: str, into: dict[str, Tensor], names: dict[int, str]
) -> Any:
    if isinstance(value, Tensor):
        name = names.setdefault(id(value), path)
        into[name] = value
        return {_STORED: [folder, name]}
    if isinstance(value, Mapping):
        return {k: _taken(v, f"{path}.{k}", folder, into, names) for k, v in value.items()}
    if isinstance(value, list | tuple):
        parts = enumerate(value)
        return type(value)(_taken(v, f"{path}.{i}", folder, into, names) for i, v in parts)
    return value


def put_back(content: dict[str, Any], place: Path) -> dict[str, Any]:
    """A checkpoint with a `StoredTensor` for each that is in a folder beside it."""
    if SHARDS not in content:
        return content
    stored = {name: read_index(place / name) for name in content[SHARDS]}
    return {k: _with(v, stored) if k in _ENTRIES else v for k, v in content.items()}


def _with(value: Any, stored: Mapping[str, Mapping[str, StoredTensor]]) -> Any:
    if isinstance(value, dict):
        if _STORED in value:
            folder, name = value[_STORED]
            return stored[folder][name]
        return {k: _with(v, stored) for k, v in value.items()}
    return [_with(v, stored) for v in value] if isinstance(value, list) else value


def tensor_of(value: Any) -> Any:
    """What is asked for: a tensor that is stored is read; everything else is as it is."""
    return value.read() if isinstance(value, StoredTensor) else value


def all_read(value: Any) -> Any:
    """Nested containers with all stored tensors read."""
    if isinstance(value, dict):
        return {key: all_read(part) for key, part in value.items()}
    return [all_read(part) for part in value] if isinstance(value, list) else tensor_of(value)


def damaged_shards(
    shards: Mapping[str, str], place: Path, rank: int = 0, ranks: int = 1
) -> str | None:
    """What is wrong with the folders of a checkpoint, in one line; None where nothing is.

    Args:
        shards: its entry `SHARDS`.
        place: folder of the checkpoint.
        rank: as in `damage_of`.
        ranks: likewise.
    """
    for name, digest in shards.items():
        if Path(name).name != name:
            return f"{place}: shards in another place, {name}"
        found = damage_of(place / name, digest, rank, ranks)
        if found is not None:
            return found
    return None


def remove_unnamed(place: Path) -> None:
    """Delete the folders of steps that have no checkpoint: left by a kill, or superseded."""
    for kind, by in _NAMED_BY.items():
        for folder in place.glob(f"{kind}_" + "[0-9]" * 8):
            step = folder.name.removeprefix(f"{kind}_")
            if not any((place / f"{name}_{step}.ckpt").exists() for name in by):
                # On a network file system what another rank has mapped stays until it lets go.
                shutil.rmtree(folder, ignore_errors=True)
