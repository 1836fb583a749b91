"""`train.py` in two real processes: the same run as in one, stopped, killed, resumed, refused."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

from tests.cli.conftest import write_kadid

REPOSITORY = Path(__file__).resolve().parents[2]
TIMEOUT = 300.0
SMALL = (
    "dataset=demo", "dataset.max_images=10", "max_steps=4", "loader.workers=0",
    "validation.every_steps=2", "validation.samples=2", "validation.images_per_batch=4",
    "validation.bootstrap_draws=20", "grpo.group_size=3", "rollout.sampling.max_new_tokens=32",
    "callbacks.checkpoint.every_steps=1", "hardware.threads=1", "seed=3",
)  # fmt: skip
TWO = ("hardware=cpu_2procs", "loader.images_per_batch=2")


class Training:
    """One command in a folder; its output goes to a file."""

    def __init__(self, folder: Path, *arguments: str, launcher: tuple[str, ...] = ()) -> None:
        self.output_file = folder / f"output_{len(list(folder.glob('output_*')))}.txt"
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        with self.output_file.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *launcher, str(REPOSITORY / "train.py"), *arguments],
                cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    @property
    def output(self) -> str:
        return self.output_file.read_text()

    def wait(self) -> int:
        return self.process.wait(TIMEOUT)

    def rank(self, number: int) -> psutil.Process:
        """The process of a rank."""
        children = psutil.Process(self.process.pid).children()
        (found,) = (c for c in children if c.environ().get("RANK") == str(number))
        return found

    def wait_for(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < end, self.output
            time.sleep(0.01)


def run(folder: Path, *arguments: str) -> None:
    training = Training(folder, *arguments)
    assert training.wait() == 0, training.output


def state(run_dir: Path) -> dict[str, torch.Tensor]:
    path = run_dir / "checkpoints/step_00000004.ckpt"
    weights: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return weights


def figures(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every metric's history in the one MLflow run."""
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (experiment,) = (e for e in client.search_experiments() if e.name == "vqr1")
    (only,) = client.search_runs([experiment.experiment_id])
    assert only.info.status == "FINISHED"
    return {
        name: [(m.step, m.value) for m in client.get_metric_history(only.info.run_id, name)]
        for name in only.data.metrics
        if "time/" not in name and "memory" not in name
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    run(folder, *SMALL, "loader.images_per_batch=4", "run_dir=run")
    return folder


@pytest.fixture(scope="module")
def in_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    run(folder, *SMALL, *TWO, "run_dir=run")
    return folder


@pytest.mark.slow
def test_two_processes_make_the_run_of_one(alone: Path, in_two: Path) -> None:
    for name, weight in state(alone / "run").items():
        # Two thousandths of one AdamW step (see tests/training/test_ranks.py).
        torch.testing.assert_close(
            state(in_two / "run")[name], weight, rtol=1e-4, atol=2e-6, msg=name
        )
    expected, found = figures(alone), figures(in_two)
    assert found.keys() == expected.keys()
    assert len(found["train/reward/total"]) == 4
    for name, history in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in history], name
        assert [v for _, v in found[name]] == pytest.approx(
            [v for _, v in history], rel=1e-4, abs=1e-6, nan_ok=True
        ), name
    # Test images in the same order with the same answers, whoever judged them.
    judged = [
        torch.load(folder / "run/checkpoints/judged_00000000.ckpt", weights_only=True)
        for folder in (alone, in_two)
    ]
    assert judged[0]["images"] == judged[1]["images"]
    assert judged[0]["texts"] == judged[1]["texts"]
    answers = [pd.read_csv(f / "run/answers/step_000004.csv") for f in (alone, in_two)]
    pd.testing.assert_frame_equal(*answers)


@pytest.mark.slow
def test_stopped_then_one_process_killed_then_resumed_to_the_same_end(
    in_two: Path, tmp_path: Path
) -> None:
    training = Training(tmp_path, *SMALL, *TWO, "run_dir=run")
    training.wait_for((tmp_path / "run/checkpoints/step_00000001.ckpt").exists)
    training.rank(1).send_signal(signal.SIGUSR1)
    assert training.wait() == 75, training.output
    assert "stopped by SIGUSR1; go on with:\n  python train.py resume=run" in training.output

    training = Training(tmp_path, "resume=run")
    training.wait_for((tmp_path / "run/checkpoints/step_00000003.ckpt").exists)
    victim, witness = training.rank(1), training.rank(0)
    victim.kill()
    killed = time.monotonic()
    assert training.wait() == 74, training.output
    assert time.monotonic() - killed < 60
    assert not witness.is_running()
    assert training.output.count("error: ") == 1
    assert "error: process 1 of 2 was ended by SIGKILL" in training.output
    assert f"resume={tmp_path}/run" in training.output
    assert "Traceback" not in training.output

    run(tmp_path, "resume=run")
    ended, expected = state(tmp_path / "run"), state(in_two / "run")
    assert all(torch.equal(ended[name], weight) for name, weight in expected.items())
    assert figures(tmp_path) == figures(in_two)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["test_srcc_after"] is not None


def other_labels(root: Path) -> str:
    labels = root / "dmos.csv"
    labels.write_text(labels.read_text().replace("4.10", "3.95"))
    return "process 1 has read other images, opinion scores or parts of kadid"


def other_pixels(root: Path) -> str:
    for image in (root / "images").iterdir():
        Image.new("RGB", (84, 56)).save(image)
    return f"process 1 finds another file at {root}/images/I01_01_01.png than process 0 (8 of the 8"


@pytest.mark.slow
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
        "max_steps=1", "loader.workers=0", "loader.images_per_batch=2", "logger=none",
        launcher=launcher,
    )  # fmt: skip
    assert training.wait() != 0
    said = re.findall(r"^error: .*", training.output, re.MULTILINE)
    assert len(said) == 1, training.output
    assert expected in said[0]
    assert "Traceback (most recent call last):\n  File" not in training.output.partition("error")[0]


@pytest.mark.slow
def test_cut_weights_train_and_resume_to_those_of_whole_ones(in_two: Path, tmp_path: Path) -> None:
    cut = (*SMALL, *TWO, "hardware.strategy=fsdp2", "hardware.micro_batch_tokens=100")
    training = Training(tmp_path, *cut, "logger=csv", "validation.test=false", "run_dir=run")
    training.wait_for((tmp_path / "run/checkpoints/step_00000001.ckpt").exists)
    training.process.send_signal(signal.SIGTERM)
    assert training.wait() == 75, training.output
    run(tmp_path, "resume=run")
    expected = state(in_two / "run")
    for name, weight in state(tmp_path / "run").items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=2e-6, msg=name)
    assert (tmp_path / "run/export/model.safetensors").is_file()
