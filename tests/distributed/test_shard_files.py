"""Folders of shards: read by PyTorch's own reader and by safetensors, damage found, no pickle."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

from vqr1.distributed import shard_files
from vqr1.distributed.shard_files import damage_of, read_index, read_shards, write_shards
from vqr1.training.checkpoint_files import (
    CheckpointDamagedError,
    load_checkpoint,
    read_checkpoint,
    remove_checkpoint,
    verify_checkpoint,
    write_checkpoint,
)
from vqr1.training.checkpoint_shards import SHARDS, remove_unnamed, take_tensors

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

TENSORS: dict[str, torch.Tensor] = {
    # Of odd lengths: what follows three halves would not lie at a multiple of four.
    "half": torch.tensor([1.0, -2.0, 0.5]).bfloat16(),
    "matrix": torch.arange(12.0).reshape(3, 4).T,
    "step": torch.tensor(7.0),
    "flags": torch.tensor([True, False, True]),
    "count": torch.tensor([2**40 + 1]),
    "none": torch.empty(0, 4),
}


def written(folder: Path) -> str:
    folder.mkdir()
    return write_shards(TENSORS, folder)


def test_others_read_what_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    written(folder)
    assert [path.name for path in sorted(folder.iterdir())] == [
        "index.json", "rank_00000_of_00001.safetensors",
    ]  # fmt: skip
    full = {name: tensor for name, tensor in TENSORS.items() if tensor.numel()}
    found = load_file(folder / "rank_00000_of_00001.safetensors")
    assert found.keys() == full.keys()
    theirs = {name: torch.zeros_like(tensor) for name, tensor in full.items()}
    dcp.load(theirs, storage_reader=HuggingFaceStorageReader(str(folder)))
    ours = {name: torch.zeros_like(tensor) for name, tensor in TENSORS.items()}
    stored = read_index(folder)
    read_shards(ours, list(stored.values()))
    for name, tensor in TENSORS.items():
        for value in (ours[name], stored[name].read()):
            assert value.dtype == tensor.dtype
            assert torch.equal(value, tensor)
    for name, tensor in full.items():
        assert torch.equal(found[name], tensor)
        assert torch.equal(theirs[name], tensor)
    with pytest.raises(ValueError, match="Size mismatch"):
        read_shards({"matrix": torch.zeros(3, 4)}, [stored["matrix"]])


def truncated(folder: Path) -> None:
    with (folder / "rank_00000_of_00001.safetensors").open("r+b") as file:
        file.truncate(100)


def flipped(folder: Path) -> None:
    path = folder / "rank_00000_of_00001.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def other_index(folder: Path) -> None:
    index = json.loads((folder / "index.json").read_text())
    index["tensors"]["matrix"]["shards"][0]["offsets"] = [1, 0]
    (folder / "index.json").write_text(json.dumps(index))


def without_file(folder: Path) -> None:
    (folder / "rank_00000_of_00001.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "printed"),
    [
        (truncated, "100 bytes instead of"),
        (flipped, r"safetensors: its SHA-256"),
        (other_index, r"index\.json: its SHA-256"),
        (without_file, "missing"),
    ],
)
def test_a_checkpoint_is_damaged_where_its_shards_are(
    damage: Callable[[Path], None], printed: str, tmp_path: Path
) -> None:
    path = tmp_path / "step_00000003.ckpt"
    folder = tmp_path / "weights_00000003"
    write_checkpoint({SHARDS: {folder.name: written(folder)}}, path)
    verify_checkpoint(path)
    damage(folder)
    with pytest.raises(CheckpointDamagedError, match=printed):
        verify_checkpoint(path)


def test_an_index_names_only_files_that_it_has_the_checksums_of(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    written(folder)
    index = json.loads((folder / "index.json").read_text())
    for change in ({"files": {}}, {"files": {"../index.json": {}}}):
        text = json.dumps(index | change)
        (folder / "index.json").write_text(text)
        digest = shard_files.hashlib.sha256(text.encode()).hexdigest()
        assert "without a checksum" in (damage_of(folder, digest) or "")
    path = tmp_path / "step_00000003.ckpt"
    write_checkpoint({SHARDS: {"../elsewhere": ""}}, path)
    with pytest.raises(CheckpointDamagedError, match="in another place"):
        verify_checkpoint(path)


class Poison:
    """Runs code where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def test_metadata_that_would_run_code_is_never_read(tmp_path: Path) -> None:
    path, ran = tmp_path / "step_00000003.ckpt", tmp_path / "ran"
    content = {"state_dict": {"a": TENSORS["matrix"]}, "global_step": 3}
    rest, taken = take_tensors(content, 3)
    (folder,) = taken
    (tmp_path / folder).mkdir()
    digest = write_shards(taken[folder], tmp_path / folder)
    write_checkpoint({**rest, SHARDS: {folder: digest}}, path)
    for name in (".metadata", "__0_0.distcp", "rank_00001_of_00001.safetensors"):
        (tmp_path / folder / name).write_bytes(pickle.dumps(Poison(ran)))
    assert torch.equal(read_checkpoint(path)["state_dict"]["a"], TENSORS["matrix"])
    target = {"state_dict.a": torch.zeros(4, 3)}
    read_shards(target, [load_checkpoint(path, mapped=True)["state_dict"]["a"]])
    assert torch.equal(target["state_dict.a"], TENSORS["matrix"])
    assert not ran.exists()
    # It would have: the reader that DCP takes by default unpickles it.
    with pytest.raises(BaseException, match=r"."):
        dcp.load({"a": torch.zeros(1)}, checkpoint_id=tmp_path / folder)
    assert ran.exists()


def test_tied_weights_are_written_once_and_folders_go_with_their_checkpoints(
    tmp_path: Path,
) -> None:
    tied = torch.ones(4)
    content = {
        "state_dict": {"embed": tied, "head": tied},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [[0]]}],
        "callbacks": {"rng": torch.zeros(8)},
    }
    rest, taken = take_tensors(content, 3)
    assert {folder: list(tensors) for folder, tensors in taken.items()} == {
        "weights_00000003": ["state_dict.embed"],
        "state_00000003": ["optimizer_states.0.state.0.step"],
    }
    assert rest["callbacks"]["rng"] is content["callbacks"]["rng"]  # type: ignore[call-overload]
    shards = {}
    for name, tensors in taken.items():
        (tmp_path / name).mkdir()
        shards[name] = write_shards(tensors, tmp_path / name)
    step, best = tmp_path / "step_00000003.ckpt", tmp_path / "best_00000003.ckpt"
    write_checkpoint({**rest, SHARDS: shards}, step)
    found = read_checkpoint(step)
    assert torch.equal(found["state_dict"]["head"], tied)
    assert found["optimizer_states"][0]["state"] == {0: {"step": torch.tensor(1.0)}}
    write_checkpoint({**rest, SHARDS: shards}, best)
    left_by_a_kill = tmp_path / "weights_00000004"
    left_by_a_kill.mkdir()
    for removed, kept in ((None, {*shards}), (step, {"weights_00000003"}), (best, set())):
        if removed is not None:
            remove_checkpoint(removed)
        remove_unnamed(tmp_path)
        assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == kept
