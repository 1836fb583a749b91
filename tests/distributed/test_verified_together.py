"""Two ranks that choose a checkpoint: each digests its share of the shards, both take the same."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from tools.faults.forked import run_ranks
from vqr1.distributed import shard_files
from vqr1.distributed.collectives import get_rank
from vqr1.distributed.shard_files import damage_of, write_shards
from vqr1.training.checkpoint_files import newest_intact, step_name, write_checkpoint
from vqr1.training.checkpoint_shards import SHARDS

TENSORS = {name: torch.full((64,), float(i)) for i, name in enumerate("abcd")}


def test_each_rank_looks_at_its_share_of_the_files(tmp_path: Path) -> None:
    names = [f"rank_{number:05d}_of_00003.safetensors" for number in range(3)]
    files = {}
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
        files[name] = {"bytes": len(name), "sha256": hashlib.sha256(name.encode()).hexdigest()}
    text = json.dumps({"files": files, "tensors": {}})
    (tmp_path / "index.json").write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    (tmp_path / names[1]).write_bytes(b"x" * len(names[1]))
    found = [damage_of(tmp_path, digest, rank, 2) for rank in (0, 1)]
    # Files 0 and 2 are the first rank's.
    assert found[0] is None
    assert names[1] in (found[1] or "")
    assert names[1] in (damage_of(tmp_path, digest) or "")


def rank(number: int, port: int, place: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=number, world_size=2)
    folder = Path(place)
    for step in (3, 5):
        shards = folder / f"weights_{step:08d}"
        shards.mkdir(exist_ok=True)
        torch.distributed.barrier()
        digest = write_shards(TENSORS, shards)
        if number == 0:
            write_checkpoint({SHARDS: {shards.name: digest}}, folder / step_name("step", step))
    torch.distributed.barrier()
    if number == 0:
        damaged = folder / "weights_00000005/rank_00001_of_00002.safetensors"
        data = bytearray(damaged.read_bytes())
        data[-1] ^= 1
        damaged.write_bytes(data)
    torch.distributed.barrier()
    digested: list[str] = []
    digest_of: Any = hashlib.file_digest

    def noted(file: Any, kind: str) -> Any:
        digested.append("/".join(Path(file.name).parts[-2:]))
        return digest_of(file, kind)

    shard_files.hashlib.file_digest = noted
    found = newest_intact(folder, "step")
    shard_files.hashlib.file_digest = digest_of
    result = {"found": None if found is None else found.name, "digested": digested}
    (folder / f"rank_{get_rank()}.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_damage_that_one_rank_finds_makes_both_take_the_checkpoint_before(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run_ranks(rank, (port, str(tmp_path)), 2)
    found = [json.loads((tmp_path / f"rank_{number}.json").read_text()) for number in (0, 1)]
    assert [one["found"] for one in found] == ["step_00000003.ckpt"] * 2
    shards = [{name for name in one["digested"] if name.endswith(".safetensors")} for one in found]
    for number, own in enumerate(shards):
        assert own == {
            f"weights_{step:08d}/rank_{number:05d}_of_00002.safetensors" for step in (3, 5)
        }
    # The files themselves are rank 0's to read.
    assert not any(name.endswith(".ckpt") for name in found[1]["digested"])
