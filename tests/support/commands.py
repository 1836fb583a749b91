"""Trainings by commands of their own, in folders of their own, and what they leave there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from mlflow import MlflowClient

from tools.faults.forked import ForkedProgram, process_of_rank
from vqr1.training.checkpoint_files import read_checkpoint, step_name

REPOSITORY = Path(__file__).resolve().parents[2]
TIMEOUT = 1800.0
"""A safety net alone: what a busy machine takes is not measured here."""


class Training:
    """One command in a folder; its output goes to a file.

    Args:
        folder: its working directory.
        arguments: the command's.
        launcher: arguments of Python before the command.
        script: the command.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        launcher: tuple[str, ...] = (),
        script: Path = REPOSITORY / "train.py",
    ) -> None:
        self._folder = folder
        self.output_file = folder / f"output_{len(list(folder.glob('output_*')))}.txt"
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        # A launcher such as torchrun has an interpreter of its own.
        begin: Any = subprocess.Popen if launcher else ForkedProgram
        with self.output_file.open("wb") as output:
            self.process = begin(
                [sys.executable, *launcher, str(script), *arguments],
                cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    @property
    def output(self) -> str:
        return self.output_file.read_text()

    def wait(self) -> int:
        return self.process.wait(TIMEOUT)

    def rank(self, number: int) -> psutil.Process:
        """The process of a rank, once it has begun."""
        found: list[int] = []

        def begun() -> bool:
            with suppress(FileNotFoundError, ValueError):
                found.append(process_of_rank(self._folder, number))
            return bool(found)

        self.wait_for(begun)
        return psutil.Process(found[0])

    def wait_for(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < end, self.output
            time.sleep(0.01)


def whole_and_begun(place: Path, checkpoint: str, *arguments: str) -> tuple[Path, Path, Training]:
    """A training that ended, and the same again at one of its checkpoints, to be killed.

    Args:
        place: an empty folder.
        checkpoint: pattern of the file in `run/checkpoints` that the second one has written.
        arguments: the command's, with `run_dir=run`.

    Returns:
        The folder of the first, that of the second, and the second.
    """
    whole, begun = place / "whole", place / "begun"
    for folder in (whole, begun):
        folder.mkdir()
    run(whole, *arguments)
    training = Training(begun, *arguments)
    training.wait_for(lambda: any((begun / "run/checkpoints").glob(checkpoint)))
    return whole, begun, training


def run(folder: Path, *arguments: str, script: Path = REPOSITORY / "train.py") -> None:
    """Run a training to its end, which has to be a good one."""
    training = Training(folder, *arguments, script=script)
    assert training.wait() == 0, training.output


def state(run_dir: Path, step: int) -> dict[str, torch.Tensor]:
    """The weights that were saved after a step."""
    path = run_dir / "checkpoints" / step_name("step", step)
    weights: dict[str, torch.Tensor] = read_checkpoint(path)["state_dict"]
    return weights


def check_close(found: Path, expected: Path, step: int) -> None:
    """Check that two runs have come to the same weights, but for the order of their sums."""
    assert_same_weights(state(found, step), state(expected, step))


def assert_same_weights(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Check weights after a few steps at 2e-4: equal, but for the order of sums.

    The first AdamW steps are the learning rate times g / |g|. Where a gradient is nothing but
    rounding (a bias of keys has none at all), single weights differ visibly, never all of a tensor.
    """
    assert found.keys() == expected.keys()
    for name, weight in found.items():
        difference = weight - expected[name]
        # Of one step: five thousandths on average, a tenth at most.
        assert float(difference.square().mean().sqrt()) < 1e-6, name
        assert float(difference.abs().max()) < 2e-5, name


def check_same_predictions(found: Path, expected: Path) -> None:
    """Check that the test images came in the same order with the same answers."""
    evaluated = [
        torch.load(run_dir / "checkpoints/predictions_00000000.ckpt", weights_only=True)
        for run_dir in (found, expected)
    ]
    assert evaluated[0]["images"] == evaluated[1]["images"]
    assert evaluated[0]["texts"] == evaluated[1]["texts"]


def check_close_metrics(found: Path, expected: Path) -> None:
    """Check that two folders' runs have logged the same, but for the order of sums."""
    histories = metrics(found)
    assert histories.keys() == metrics(expected).keys()
    for name, history in metrics(expected).items():
        assert [step for step, _ in histories[name]] == [step for step, _ in history], name
        assert [v for _, v in histories[name]] == pytest.approx(
            [v for _, v in history], rel=1e-4, abs=1e-6, nan_ok=True
        ), name


def metrics(folder: Path) -> dict[str, list[tuple[int, float]]]:
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
