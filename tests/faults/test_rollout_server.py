"""Trainings that sample by a server, which is really killed."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.faults.report import last_line
from tools.faults.runs import ARGUMENTS, Workshop, compare, read_result
from tools.faults.vllm_transport import RunningServer, vllm_server
from vqr1.training.checkpoint_files import step_of

pytestmark = pytest.mark.slow

SERVED = ("rollout=vllm_server", "rollout.sampling.stop=answer", "rollout.server.patience_s=180")


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with vllm_server() as running:
        yield running


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, server: RunningServer) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("served"), served_by(server), tweak="vllm_stand_ins")


def served_by(server: RunningServer, steps: int = 5) -> tuple[str, ...]:
    """Arguments of a training that samples by a server."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = f"rollout.server.group_port={found.getsockname()[1]}"
    return *SERVED, *ARGUMENTS, f"max_steps={steps}", f"rollout.server.url={server.url}", port


def gaps_of(workshop: Workshop) -> dict[int, float]:
    """By step, how far the server's log-probabilities were from the trainer's."""
    history = workshop.reference.history
    return {step: values[0] for (key, step), values in history.items()
            if key == "train/mismatch/logprob_gap"}  # fmt: skip


def test_the_server_follows_the_policy(workshop: Workshop, server: RunningServer) -> None:
    history, gaps = workshop.reference.history, gaps_of(workshop)
    # Where a group has signal the trainer computes the same tokens under the same weights: a server
    # one update after would differ by far more than rounding.
    assert len(gaps) >= 3
    assert max(gaps.values()) < 1e-5
    capped = [v for (key, _), v in history.items() if key == "train/mismatch/capped_rate"]
    assert capped == [(0.0,)] * len(gaps)
    # Before each of 5 steps and 2 validations; the test before, and after with the last weights
    # and, unless they are the same, with the best.
    assert server.counts()["updates"] in (5 + 2 + 2, 5 + 2 + 3)


def test_a_server_that_is_killed_and_started_again(
    workshop: Workshop, server: RunningServer
) -> None:
    training = workshop.start("back", "run_dir=run")
    assert training.wait_until("rollout", 3)
    server.kill()
    time.sleep(1)
    server.start(wait=False)
    assert training.wait() == 0, training.output
    assert f"{server.url}: " in training.output
    done = compare(read_result(training.folder), workshop.reference)
    assert done.identical, done


def test_a_server_that_stays_away_costs_no_step(workshop: Workshop, server: RunningServer) -> None:
    training = workshop.start("away", "run_dir=run", "rollout.server.patience_s=0.5")
    assert training.wait_until("rollout", 4)
    server.kill()
    assert training.wait() == 74, training.output
    assert last_line(training.output).startswith(f"error: rollout.server.url={server.url}: ")
    assert "resume with:\n  python train.py resume=" in training.output
    # Saved after every second step, and after the third because the fourth did not come.
    saved = Path(training.folder, "run", "checkpoints").glob("step_*.ckpt")
    assert max(map(step_of, saved)) == 3
    server.start()
    resumed = workshop.resume("away", "rollout.server.patience_s=180")
    assert resumed.wait() == 0, resumed.output
    done = compare(read_result(resumed.folder), workshop.reference)
    assert done.identical, done


def test_a_training_killed_with_responses_under_way(tmp_path: Path, server: RunningServer) -> None:
    server.set()
    arguments = (*served_by(server, steps=4), "rollout.ahead=1")
    workshop = Workshop(tmp_path, arguments, tweak="vllm_stand_ins")
    counts, first, *later = server.counts(), *gaps_of(workshop).values()
    # Each step's responses are asked for once, and weights sent as often as without overlap.
    assert counts["updates"] in (4 + 2 + 2, 4 + 2 + 3)
    # The first step is on policy; the others learn from the policy before the last update.
    assert first < 1e-5
    assert later
    assert min(later) > 1e-4
    training = workshop.start("killed", "run_dir=run")
    # Saved after the second step, with the third's responses; a validation follows the third.
    assert training.wait_until("update", 2)
    server.set(chat_seconds=0.5)
    assert training.wait_until("update", 3)
    training.signal(signal.SIGKILL)
    training.wait()
    saved = Path(training.folder, "run", "checkpoints").glob("step_*.ckpt")
    assert max(map(step_of, saved)) == 2
    server.set()
    resumed = workshop.resume("killed")
    assert resumed.wait() == 0, resumed.output
    done = compare(read_result(resumed.folder), workshop.reference)
    assert done.identical, done
