"""The supervised stage and a chain, killed and resumed to the same bits."""

from __future__ import annotations

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

CHAIN = (
    "chain=[\"sft prompt=levels stage.target=soft_levels validation.mode=levels\",grpo]",
    *ARGUMENTS, "max_steps=4", "validation.test=false", "logger=csv", "run_dir=run",
)  # fmt: skip


@pytest.mark.parametrize("stage", [("stage=sft", "prompt=non_thinking")])
def test_a_supervised_run_is_resumed_to_the_same_bits(
    tmp_path: Path, stage: tuple[str, ...]
) -> None:
    workshop = Workshop(tmp_path, (*ARGUMENTS, *stage))
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
    first, second = killed / "run/1_sft", killed / "run/2_grpo"
    # The first training is killed, the chain names it and how it continues.
    chain = Training(killed, *CHAIN)
    chain.wait_for(lambda: any((first / "checkpoints").glob("step_00000002.ckpt.sha256")))
    holder(first / "run.lock").kill()
    assert chain.wait() not in (0, EXIT_INTERRUPTED)
    assert "chain: 1_sft failed" in chain.output
    assert not second.exists()
    # The second is stopped by a signal to the chain, which saves it.
    chain = Training(killed, "resume=run")
    chain.wait_for(lambda: any((second / "checkpoints").glob("step_00000002.ckpt.sha256")))
    chain.process.send_signal(signal.SIGTERM)
    assert chain.wait() == EXIT_INTERRUPTED, chain.output
    assert "chain: 2_grpo was stopped" in chain.output
    finished = (first / "summary.json").stat().st_mtime_ns
    run_command(killed, *CHAIN)
    assert (first / "summary.json").stat().st_mtime_ns == finished
    for link in ("1_sft", "2_grpo"):
        found, expected = state(killed / "run" / link, 4), state(whole / "run" / link, 4)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], weight) for name, weight in expected.items())
