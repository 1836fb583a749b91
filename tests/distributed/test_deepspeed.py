"""Weights, gradients and optimizer state sharded by DeepSpeed on a CPU, by two ranks."""

from __future__ import annotations

import importlib.util
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.test_processes import SMALL, TWO
from tests.support.commands import Training, assert_same_weights, run, state
from vqr1.policy.packaged import tiny_policy_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"
    ),
]

METRICS = ("logger=csv", "validation.test=false", "run_dir=run")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights after four steps of one process that holds everything."""
    folder = tmp_path_factory.mktemp("alone")
    run(folder, *SMALL, *METRICS, "loader.batch_size=4")
    return state(folder / "run", 4)


in_every_way = pytest.mark.parametrize(
    "keys",
    [
        ("hardware.strategy=zero2",),
        ("hardware.strategy=zero3",),
        ("hardware.strategy=zero3", "hardware.offload=true"),
    ],
    ids=["zero2", "zero3", "zero3_offload"],
)


@in_every_way
def test_sharded_training_stopped_and_resumed_makes_the_run_of_one(
    alone: dict[str, torch.Tensor], keys: tuple[str, ...], tmp_path: Path
) -> None:
    # About one image a pass: gradients of several passes are added up.
    divided = (*SMALL, *TWO, *keys, "hardware.micro_batch_tokens=100")
    training = Training(tmp_path, *divided, *METRICS)
    training.wait_for((tmp_path / "run/checkpoints/step_00000001.ckpt").exists)
    training.process.send_signal(signal.SIGTERM)
    assert training.wait() == 75, training.output
    run(tmp_path, "resume=run")
    assert_same_weights(state(tmp_path / "run", 4), alone)
    assert (tmp_path / "run/export/model.safetensors").is_file()


@in_every_way
def test_steps_without_a_signal_change_nothing(keys: tuple[str, ...], tmp_path: Path) -> None:
    # No answer fits two tokens. Weight decay would show.
    silent = ("rollout.sampling.max_new_tokens=2", "optimizer.lr=0.01", "optimizer.weight_decay=1")
    training = Training(tmp_path, *SMALL, *TWO, *keys, *METRICS, *silent)
    assert training.wait() == 0, training.output
    assert "lr_scheduler.step()" not in training.output
    before = load_file(tiny_policy_folder() / "model.safetensors")
    after = load_file(tmp_path / "run/export/model.safetensors")
    assert before.keys() == after.keys()
    for name, weight in before.items():
        assert torch.equal(after[name], weight.float()), name
