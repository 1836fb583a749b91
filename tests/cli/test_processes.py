"""`train.py` in two real processes: the same run as in one, stopped, killed, resumed, refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pandas as pd
import pytest
import torch
from PIL import Image

from tests.support.commands import (
    REPOSITORY,
    Training,
    check_close,
    check_close_metrics,
    check_same_predictions,
    metrics,
    run,
    state,
)
from tools.faults.forked import ForkedProgram
from tools.faults.small_set import write_kadid
from vqr1.cli import train
from vqr1.distributed import rendezvous
from vqr1.distributed.environment import RankInfo
from vqr1.training.checkpoint_files import read_checkpoint, write_checkpoint
from vqr1.training.checkpoint_shards import SHARDS

pytestmark = pytest.mark.slow

SMALL = (
    "dataset=demo", "dataset.max_images=10", "max_steps=4", "loader.workers=0",
    "validation.every_steps=2", "validation.samples=2", "validation.batch_size=4",
    "validation.bootstrap_draws=20", "grpo.group_size=3", "rollout.sampling.max_new_tokens=32",
    "callbacks.checkpoint.every_steps=1", "hardware.threads=1", "seed=3",
)  # fmt: skip
TWO = ("hardware=cpu_2procs", "loader.batch_size=2")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    run(folder, *SMALL, "loader.batch_size=4", "run_dir=run")
    return folder


@pytest.fixture(scope="module")
def in_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    run(folder, *SMALL, *TWO, "run_dir=run")
    return folder


def test_two_processes_make_the_run_of_one(alone: Path, in_two: Path) -> None:
    check_close(in_two / "run", alone / "run", 4)
    assert len(metrics(in_two)["train/reward/total"]) == 4
    check_close_metrics(in_two, alone)
    check_same_predictions(in_two / "run", alone / "run")
    answers = [pd.read_csv(f / "run/answers/step_000004.csv") for f in (alone, in_two)]
    pd.testing.assert_frame_equal(*answers)


def test_stopped_then_one_process_killed_then_resumed_to_the_same_end(
    in_two: Path, tmp_path: Path
) -> None:
    training = Training(tmp_path, *SMALL, *TWO, "run_dir=run")
    training.wait_for((tmp_path / "run/checkpoints/step_00000001.ckpt").exists)
    training.rank(1).send_signal(signal.SIGUSR1)
    assert training.wait() == 75, training.output
    assert "stopped by SIGUSR1; resume with:\n  python train.py resume=run" in training.output

    training = Training(tmp_path, "resume=run")
    training.wait_for((tmp_path / "run/checkpoints/step_00000003.ckpt").exists)
    victim, witness = training.rank(1), training.rank(0)
    victim.kill()
    killed = time.monotonic()
    assert training.wait() == 74, training.output
    assert time.monotonic() - killed < 300
    assert not witness.is_running()
    assert training.output.count("error: ") == 1
    assert "error: process 1 of 2 was ended by SIGKILL" in training.output
    assert f"resume={tmp_path}/run" in training.output
    assert "Traceback" not in training.output

    run(tmp_path, "resume=run")
    ended, expected = state(tmp_path / "run", 4), state(in_two / "run", 4)
    assert all(torch.equal(ended[name], weight) for name, weight in expected.items())
    assert metrics(tmp_path) == metrics(in_two)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["test_srcc_after"] is not None


def test_only_a_stopped_process_waits_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[object] = []

    def exit_process(code: int) -> NoReturn:
        steps.append(code)
        sys.exit(code)

    monkeypatch.setattr(train, "find_rank_info", lambda: RankInfo(1, 2, 1, 2, None, True))
    monkeypatch.setattr(train, "exit_process", exit_process)
    monkeypatch.setattr(rendezvous, "wait_for_all_ranks", lambda place: steps.append(place.rank))
    monkeypatch.setattr(sys, "argv", ["train.py"])
    for code, expected in ((75, [1, 75]), (74, [74])):
        monkeypatch.setattr(train, "run_command", lambda *_, code=code, **__: sys.exit(code))
        with pytest.raises(SystemExit):
            train.main()
        assert steps == expected
        steps.clear()


def other_labels(root: Path) -> str:
    labels = root / "dmos.csv"
    labels.write_text(labels.read_text().replace("4.10", "3.95"))
    return "process 1 has read other images, MOS or splits of kadid"


def other_pixels(root: Path) -> str:
    for image in (root / "images").iterdir():
        Image.new("RGB", (84, 56)).save(image)
    return rf"process 1 finds another file at {root}/images/\S+ than process 0 \(8 of the 8"


@pytest.mark.parametrize("change", [other_labels, other_pixels])
def test_torchrun_with_different_data_on_two_ranks(
    change: Callable[[Path], str], tmp_path: Path
) -> None:
    # As on two nodes of which one has other files.
    for rank in (0, 1):
        write_kadid(tmp_path / f"kadid{rank}", references=6)
    expected = change(tmp_path / "kadid1")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    training = Training(
        tmp_path, "dataset=kadid", f"dataset.root={tmp_path}/kadid${{oc.env:LOCAL_RANK}}",
        "dataset.split.by=reference", "dataset.split.fractions=[0.5,0.25,0.25]",
        "max_steps=1", "loader.workers=0", "loader.batch_size=2", "logger=none",
        launcher=launcher,
    )  # fmt: skip
    assert training.wait() != 0
    printed = re.findall(r"^error: .*", training.output, re.MULTILINE)
    assert len(printed) == 1, training.output
    assert re.search(expected, printed[0])
    assert "Traceback (most recent call last):\n  File" not in training.output.partition("error")[0]


def test_a_pipe_that_ends_stops_none_of_two_processes(tmp_path: Path) -> None:
    # `train.py ... | head -1`
    training = ForkedProgram(
        [sys.executable, str(REPOSITORY / "train.py"), *SMALL, *TWO, "logger=csv", "run_dir=run",
         "validation.test=false"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert training.stdout is not None
    assert training.stdout.readline()
    training.stdout.close()
    assert training.wait(300) == 0
    assert (tmp_path / "run/summary.json").is_file()
    assert (tmp_path / "run/checkpoints/step_00000004.ckpt").is_file()


def test_sighup_saves_a_run_of_two_processes(in_two: Path, tmp_path: Path) -> None:
    training = Training(
        tmp_path, *SMALL, *TWO, "logger=csv", "run_dir=run", "validation.test=false"
    )
    training.wait_for((tmp_path / "run/checkpoints/step_00000001.ckpt").exists)
    training.process.send_signal(signal.SIGHUP)
    assert training.wait() == 75, training.output
    run(tmp_path, "resume=run")
    check_close(tmp_path / "run", in_two / "run", 4)


def as_before_shards(checkpoints: Path) -> None:
    """Full tensors in one file, as sharded runs saved them until there were folders of shards."""
    for path in checkpoints.glob("*_0000000?.ckpt"):
        content = read_checkpoint(path)
        if content.pop(SHARDS, None):
            write_checkpoint(content, path)
    for folder in (path for path in checkpoints.iterdir() if path.is_dir()):
        shutil.rmtree(folder)


def test_sharded_weights_train_and_resume_to_those_of_whole_ones(
    in_two: Path, tmp_path: Path
) -> None:
    cut = (*SMALL, *TWO, "hardware.strategy=fsdp2", "hardware.micro_batch_tokens=100",
           "hardware.reference=sharded")  # fmt: skip
    training = Training(tmp_path, *cut, "logger=csv", "validation.test=false", "run_dir=run")
    training.wait_for((tmp_path / "run/checkpoints/step_00000001.ckpt").exists)
    training.process.send_signal(signal.SIGTERM)
    assert training.wait() == 75, training.output
    shutil.copytree(tmp_path / "run", tmp_path / "alone/run")
    as_before_shards(tmp_path / "run/checkpoints")
    run(tmp_path, "resume=run")
    # One process takes the shards of both.
    run(tmp_path / "alone", "resume=run", "hardware.devices=1", "loader.batch_size=4",
        "resume_force=true")  # fmt: skip
    for folder in (tmp_path / "run", tmp_path / "alone/run"):
        check_close(folder, in_two / "run", 4)
        assert (folder / "export/model.safetensors").is_file()
        assert len(list((folder / "checkpoints/state_00000004").glob("rank_*"))) == (
            2 if folder == tmp_path / "run" else 1
        )
    checkpoints = tmp_path / "alone/run/checkpoints"
    saved = {path.stem[-8:] for path in checkpoints.glob("step_*.ckpt")}
    best = {path.stem[-8:] for path in checkpoints.glob("best_*.ckpt")}
    assert {path.name for path in checkpoints.iterdir() if path.is_dir()} == {
        *(f"state_{step}" for step in saved), *(f"weights_{step}" for step in saved | best),
    }  # fmt: skip
