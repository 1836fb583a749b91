from __future__ import annotations

import errno
import logging
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vqr1.durable import remove_asides
from vqr1.training.callbacks.checkpoints import AtomicCheckpointIO
from vqr1.training.checkpoint_files import (
    CheckpointDamagedError,
    CheckpointNotWrittenError,
    newest_intact,
    read_checkpoint,
    step_name,
    step_of,
    superseded,
    write_checkpoint,
)
from vqr1.training.random_state import random_state, set_random_state

CONTENT: dict[str, Any] = {"weights": torch.arange(5000.0), "step": 7, "names": ["a", "b"]}


def write(folder: Path, step: int) -> Path:
    path = folder / step_name("step", step)
    write_checkpoint({**CONTENT, "step": step}, path)
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "new", 12)
    assert path.name == "step_00000012.ckpt"
    assert step_of(path) == 12
    content = read_checkpoint(path)
    assert torch.equal(content["weights"], CONTENT["weights"])
    assert content["names"] == ["a", "b"]
    assert not list(path.parent.glob("*.part"))


@pytest.mark.parametrize("gpu", [True, False])
def test_processes_with_gpus_share_what_they_read(
    tmp_path: Path, gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    path = write(tmp_path, 1)
    content = AtomicCheckpointIO().load_checkpoint(path)
    assert (str(path) in Path("/proc/self/maps").read_text()) == gpu
    # What is loaded may be changed, and outlives its file; the file stays as it is.
    content["weights"].add_(1)
    assert torch.equal(read_checkpoint(path)["weights"], CONTENT["weights"])
    path.unlink()
    assert torch.equal(content["weights"], CONTENT["weights"] + 1)


def truncated(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(1000)


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def without_checksum(path: Path) -> None:
    path.with_name(path.name + ".sha256").unlink()


def foreign_checksum(path: Path) -> None:
    path.with_name(path.name + ".sha256").write_text("[]")


@pytest.mark.parametrize(
    ("damage", "printed"),
    [
        (truncated, "1000 bytes instead of"),
        (flipped, "SHA-256"),
        (without_checksum, "missing"),
        (foreign_checksum, "not a checksum file"),
    ],
)
def test_damage_is_found_and_the_one_before_is_used(
    damage: object, printed: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = write(tmp_path, 5), write(tmp_path, 10)
    assert newest_intact(tmp_path, "step") == newer
    damage(newer)  # type: ignore[operator]
    with pytest.raises(CheckpointDamagedError, match=printed):
        read_checkpoint(newer)
    with caplog.at_level(logging.WARNING):
        assert newest_intact(tmp_path, "step") == older
    assert newer.name in caplog.text
    assert newest_intact(tmp_path, "best") is None


def test_too_little_room_is_found_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 1)
    # 5000 float32 are 20,000 bytes; with the margin of 4 MiB about 4 MiB are needed.
    usage = type("usage", (), {"free": 3 * 2**20})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(CheckpointNotWrittenError, match="4 MiB are needed and 3 are free"):
        write(tmp_path, 2)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "step_00000001.ckpt", "step_00000001.ckpt.sha256",
    ]  # fmt: skip


def test_a_failed_write_leaves_the_last_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = write(tmp_path, 1)

    def full(self: object, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        # torch turns what its writer raises into a RuntimeError; the reason must survive that.
        patch.setattr("vqr1.training.checkpoint_files._HashingWriter._write", full)
        with pytest.raises(CheckpointNotWrittenError, match="No space left on device"):
            write(tmp_path, 2)
    assert newest_intact(tmp_path, "step") == good
    assert len(list(tmp_path.iterdir())) == 2


def test_leftovers_of_a_killed_writer_go(tmp_path: Path) -> None:
    good = write(tmp_path, 1)
    half = tmp_path / ".step_00000002.ckpt.0123456789abcdef.part"
    half.write_bytes(b"half")
    (tmp_path / "step_00000002.ckpt.sha256").write_text("{}")
    assert newest_intact(tmp_path, "step") == good
    remove_asides(tmp_path)
    assert not half.exists()


class Killed(BaseException):
    """A kill at this point: nothing that follows is done."""


def test_a_kill_while_a_file_is_replaced_leaves_one_that_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, 3)
    rename = os.replace

    def die_at_the_checkpoint(aside: Path, target: Path) -> None:
        # The checksum's rename comes first, then that of the checkpoint.
        if target == path:
            raise Killed
        rename(aside, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die_at_the_checkpoint)
        with pytest.raises(Killed):
            write_checkpoint({"weights": torch.zeros(9)}, path)
    assert newest_intact(tmp_path, "step") == path
    assert torch.equal(read_checkpoint(path)["weights"], CONTENT["weights"])
    flipped(path)
    assert newest_intact(tmp_path, "step") is None
    # What was damaged before it is replaced is not believed after a kill either.
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die_at_the_checkpoint)
        with pytest.raises(Killed):
            write_checkpoint({"weights": torch.zeros(9)}, path)
    assert newest_intact(tmp_path, "step") is None
    write_checkpoint({"weights": torch.zeros(9)}, path)
    assert torch.equal(read_checkpoint(path)["weights"], torch.zeros(9))


def test_files_that_a_damaged_one_left_do_not_count_as_kept() -> None:
    def steps(*numbers: int) -> list[Path]:
        return [Path(step_name("step", number)) for number in numbers]

    assert superseded(steps(2, 4, 6), {2, 4, 6}, 2) == steps(2)
    # 6 was damaged, so that the run resumed from 4 and saved 5: 6 must not push 4 or 5 out.
    assert superseded(steps(2, 4, 5, 6), {2, 4, 5}, 1) == steps(2, 4, 6)
    # All were damaged, and the run began again: the state after 0 is the only good one.
    assert superseded(steps(0, 2, 4), {0}, 2) == steps(2, 4)


def test_random_states_survive_a_checkpoint(tmp_path: Path) -> None:
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    random.gauss(0, 1)
    path = tmp_path / "state.ckpt"
    write_checkpoint(random_state(), path)
    first = (random.gauss(0, 1), np.random.rand(), torch.rand(3))
    set_random_state(read_checkpoint(path))
    second = (random.gauss(0, 1), np.random.rand(), torch.rand(3))
    assert first[:2] == second[:2]
    assert torch.equal(first[2], second[2])


def test_random_states_of_gpus_that_are_not_here_are_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    restored: list[Any] = []
    state = random_state() | {"cuda": ["first", "second"]}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", restored.extend)
    set_random_state(state)
    assert restored == ["first"]
