"""Every machine profile takes three steps at tiny size on one GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.cli.test_configs import choices, train_config
from vqr1.distributed.hardware import hardware_problems, this_machine

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", [n for n in choices("hardware") if not n.startswith("cpu")])
def test_three_steps(name: str, tmp_path: Path) -> None:
    profile = [f"hardware={name}", "hardware.devices=1", "hardware.nodes=1"]
    problems = hardware_problems(train_config(*profile).hardware, this_machine())
    if problems:
        pytest.skip("; ".join(problems))
    command = [
        sys.executable, str(REPOSITORY / "train.py"), *profile, "max_steps=3", "logger=csv",
        "dataset.max_images=16", "loader.batch_size=8", "validation.every_steps=3",
        "validation.samples=2", "validation.test=false", "run_dir=run",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run/checkpoints/step_00000003.ckpt").is_file()
    assert json.loads((tmp_path / "run/summary.json").read_text())["val_srcc_best"] is not None
