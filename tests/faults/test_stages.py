"""The supervised stage and a chain of all stages, killed and resumed to the same bits."""

from __future__ import annotations

import filecmp
import json
import os
import random
import signal
from pathlib import Path

import psutil
import pytest
import torch

from tests.support.commands import Training, state
from tests.support.commands import run as run_command
from tools.faults import kills
from tools.faults.runs import ARGUMENTS, Workshop, compare, read_result
from vqr1.errors import EXIT_INTERRUPTED

pytestmark = pytest.mark.slow

LINKS = {"1_sft": 4, "2_grpo": 4, "3_distill": 8}
"""Trainings of the chain, and their steps."""
CHAIN = (
    "chain=[sft,grpo,\"distill max_steps=8 stage.samples=2\"]", "prompt=non_thinking", *ARGUMENTS,
    "max_steps=4", "validation.batch_size=2", "validation.test=false", "logger=csv", "run_dir=run",
)  # fmt: skip
SOFT = ("stage=sft", "prompt=levels", "stage.target=soft_levels", "validation.mode=levels")


def test_a_supervised_run_is_resumed_to_the_same_bits(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, (*ARGUMENTS, *SOFT))
    for phase in ("update", "checkpoint"):
        kills.kill_in(workshop, phase, phase, random.Random(phase), resume=False)
        training = workshop.resume(phase)
        assert training.wait() == 0, training.output
        done = compare(read_result(training.folder), workshop.reference)
        assert done.identical, done


def holder(lock: Path) -> psutil.Process:
    """The process that works on a run."""
    for process in psutil.process_iter():
        try:
            if any(file.path == str(lock) for file in process.open_files()):
                return process
        except psutil.Error:
            continue
    raise AssertionError(f"nobody holds {lock}")


def test_a_chain_is_resumed_to_the_same_bits(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    run_command(whole, *CHAIN)
    runs = [killed / "run" / name for name in LINKS]
    answers = runs[2] / "teacher.jsonl"
    chain = Training(killed, *CHAIN)
    for number, run_dir in enumerate(runs):
        if number == 2:
            # A signal to the chain stops the teacher between two batches of answers.
            chain.wait_for(lambda: answers.is_file() and answers.read_text().count("\n") > 3)
            chain.process.send_signal(signal.SIGTERM)
            assert chain.wait() == EXIT_INTERRUPTED, chain.output
            assert "chain: 3_distill was stopped" in chain.output
            assert answers.read_text().count("\n") < 12
            # Whoever began again would make another file.
            os.link(answers, killed / "kept")
            chain = Training(killed, "resume=run")
        saved = run_dir / "checkpoints/step_00000002.ckpt.sha256"
        chain.wait_for(saved.is_file)
        holder(run_dir / "run.lock").kill()
        assert chain.wait() not in (0, EXIT_INTERRUPTED)
        assert f"chain: {run_dir.name} failed" in chain.output
        assert not any(later.exists() for later in runs[number + 1 :])
        chain = Training(killed, "resume=run")
    assert chain.wait() == 0, chain.output
    assert answers.samefile(killed / "kept")
    for run_dir, steps in zip(runs, LINKS.values(), strict=True):
        found, expected = state(run_dir, steps), state(whole / "run" / run_dir.name, steps)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    for name in ("teacher_states.bin", "export/student.safetensors"):
        assert filecmp.cmp(runs[2] / name, whole / "run/3_distill" / name, shallow=False), name
    # The first line names the teacher's folder.
    uninterrupted = (whole / "run/3_distill/teacher.jsonl").read_text()
    assert answers.read_text().splitlines()[1:] == uninterrupted.splitlines()[1:]
    # The teacher is in no checkpoint, and the last step is exported whatever validation found.
    assert not any("language_model" in name for name in found)
    assert json.loads((runs[2] / "summary.json").read_text())["exported_step"] == 8
    # What has finished is not repeated.
    finished = (runs[0] / "summary.json").stat().st_mtime_ns
    run_command(killed, *CHAIN)
    assert (runs[0] / "summary.json").stat().st_mtime_ns == finished
