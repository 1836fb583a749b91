"""A distillation that is killed while the teacher answers and in its steps, and resumed."""

from __future__ import annotations

import filecmp
import json
import os
import signal
from pathlib import Path

import pytest
import torch

from tests.support.commands import Training, run, state
from vqr1.policy.packaged import tiny_policy_folder

pytestmark = pytest.mark.slow


def test_killed_in_both_phases_and_resumed_to_the_same_bits(tmp_path: Path) -> None:
    arguments = (
        "stage=distill", f"model.path={tiny_policy_folder()}", "stage.samples=2", "max_steps=12",
        "dataset.max_images=24", "loader.batch_size=8", "loader.workers=0", "hardware.threads=1",
        "validation.batch_size=4", "validation.every_steps=12", "validation.test=false",
        "callbacks.checkpoint.every_steps=2", "rollout.sampling.max_new_tokens=32", "logger=csv",
        "run_dir=run",
    )  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    run(whole, *arguments)
    answers = killed / "run/teacher.jsonl"
    first = Training(killed, *arguments)
    first.wait_for(lambda: answers.is_file() and len(answers.read_text().splitlines()) > 8)
    first.process.send_signal(signal.SIGKILL)
    first.process.wait(60)
    assert not (killed / "run/checkpoints").exists() or not any(
        (killed / "run/checkpoints").glob("step_*")
    )
    # Whoever began again would make another file.
    os.link(answers, killed / "kept")
    second = Training(killed, "resume=run")
    second.wait_for(lambda: any((killed / "run/checkpoints").glob("step_00000004*")))
    second.process.send_signal(signal.SIGKILL)
    second.process.wait(60)
    assert not (killed / "run/summary.json").exists()
    run(killed, "resume=run")
    assert answers.samefile(killed / "kept")
    for name in ("teacher.jsonl", "teacher_states.bin", "export/student.safetensors"):
        assert filecmp.cmp(killed / "run" / name, whole / "run" / name, shallow=False), name
    ended, expected = state(killed / "run", 12), state(whole / "run", 12)
    assert ended.keys() == expected.keys()
    assert all(torch.equal(ended[name], weight) for name, weight in expected.items())
    # The teacher is in no checkpoint, and the last step is exported whatever validation found.
    assert not any("language_model" in name for name in ended)
    assert json.loads((killed / "run/summary.json").read_text())["exported_step"] == 12
