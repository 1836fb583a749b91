"""Trainings of two processes that sample by one server: the run of one, and what a kill costs."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support import served_train
from tests.support.commands import (
    Training,
    check_close,
    check_close_metrics,
    check_same_predictions,
    metrics,
    run,
    state,
)
from tools.faults.vllm_transport import RunningServer, vllm_server
from vqr1.training.checkpoint_files import step_of

pytestmark = pytest.mark.slow

SCRIPT = Path(served_train.__file__)
SMALL = (
    "dataset=demo", "dataset.max_images=6", "max_steps=3", "loader.workers=0",
    "validation.every_steps=3", "validation.samples=2", "validation.batch_size=2",
    "validation.bootstrap_draws=20", "grpo.group_size=3", "rollout.sampling.max_new_tokens=32",
    "callbacks.checkpoint.every_steps=3", "hardware.threads=1", "seed=3",
    "rollout=vllm_server", "rollout.sampling.stop=answer", "rollout.server.patience_s=180",
    "+model.lora.rank=4", "+model.lora.alpha=8", "optimizer.lr=1e-3", "run_dir=run",
)  # fmt: skip
ALONE = ("loader.batch_size=4",)
TWO = ("hardware=cpu_2procs", "loader.batch_size=2")
ADAPTER = "rollout.server.weights=adapter"
SENT = 3 + 2 + 2
"""Times that weights are sent: before 3 steps, 2 validations, and the tests before and after."""


def address(server: RunningServer) -> tuple[str, str]:
    """Where the server is, and a port for the weights."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    return f"rollout.server.url={server.url}", f"rollout.server.group_port={port}"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with vllm_server() as running:
        yield running


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, server: RunningServer) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    run(folder, *SMALL, *ALONE, ADAPTER, *address(server), script=SCRIPT)
    return folder


@pytest.fixture(scope="module")
def asked(alone: Path, server: RunningServer) -> dict[str, int]:
    """What the server was asked by one process."""
    return server.counts()


@pytest.fixture(scope="module")
def cut(
    tmp_path_factory: pytest.TempPathFactory, asked: dict[str, int], server: RunningServer
) -> tuple[Path, dict[str, int]]:
    """Two processes that shard all weights and send adapters; what the server did."""
    folder = tmp_path_factory.mktemp("cut")
    server.set()
    strategy = "hardware.strategy=fsdp2"
    run(folder, *SMALL, *TWO, strategy, ADAPTER, *address(server), script=SCRIPT)
    return folder, server.counts()


@pytest.fixture(scope="module")
def in_two(
    tmp_path_factory: pytest.TempPathFactory,
    cut: tuple[Path, dict[str, int]],
    server: RunningServer,
) -> tuple[Path, dict[str, int]]:
    """Two processes that send full weights; what the server did.

    After all that send adapters alone: those count on the weights that the server has loaded.
    """
    folder = tmp_path_factory.mktemp("two")
    server.set()
    run(folder, *SMALL, *TWO, *address(server), script=SCRIPT)
    return folder, server.counts()


def test_two_processes_make_the_run_of_one(
    alone: Path, asked: dict[str, int], in_two: tuple[Path, dict[str, int]]
) -> None:
    folder, counts = in_two
    # Every image is asked for by one process, and one process sends.
    assert counts["chat"] == asked["chat"]
    assert asked["adapters"] == counts["updates"] == SENT
    assert counts["cache_resets"] == counts["encoder_resets"] == SENT
    check_close(folder / "run", alone / "run", 3)
    check_close_metrics(folder, alone)
    check_same_predictions(folder / "run", alone / "run")
    # The server's weights are the policy's: one update after, this were far more.
    gaps = metrics(folder)["train/mismatch/logprob_gap"]
    assert gaps
    assert max(gap for _, gap in gaps) < 1e-5


def test_sharded_adapters_are_put_together_and_sent_by_one_process(
    alone: Path, asked: dict[str, int], cut: tuple[Path, dict[str, int]]
) -> None:
    folder, counts = cut
    assert (counts["chat"], counts["adapters"]) == (asked["chat"], SENT)
    check_close(folder / "run", alone / "run", 3)
    check_close_metrics(folder, alone)
    check_same_predictions(folder / "run", alone / "run")


def test_a_server_killed_within_a_step_and_again_after_the_weights(
    in_two: tuple[Path, dict[str, int]], server: RunningServer, tmp_path: Path
) -> None:
    whole, _ = in_two
    # 6 test images, 6 validation images in two ways, 2 steps of 4 images, the third's second.
    server.set(die_at={"chat": 6 + 12 + 8 + 2})
    training = Training(tmp_path, *SMALL, *TWO, *address(server), script=SCRIPT)
    ranks = [training.rank(number) for number in (0, 1)]
    assert server.process is not None
    server.process.wait()
    killed = time.monotonic()
    assert training.wait() == 74, training.output
    assert time.monotonic() - killed < 300
    assert not any(process.is_running() for process in ranks)
    assert training.output.count("error: ") == 1, training.output
    assert f"error: rollout.server.url={server.url}: lost the rollout server (" in training.output
    assert training.output.count("resume with:\n  python train.py resume=run") == 1
    assert "Traceback" not in training.output
    # The start, and the step before the lost one, though every third is saved.
    saved = (tmp_path / "run/checkpoints").glob("step_*.ckpt")
    assert sorted(map(step_of, saved)) == [0, 2]

    server.start()
    server.set(die_at={"cache_resets": 1})
    training = Training(tmp_path, "resume=run", script=SCRIPT)
    server.process.wait()
    server.start(wait=False)
    assert training.wait() == 0, training.output
    # Rank 0 alone reports it; both continue with the new server.
    assert training.output.count("lost the rollout server (") == 1, training.output
    ended, expected = state(tmp_path / "run", 3), state(whole / "run", 3)
    assert all(torch.equal(ended[name], weight) for name, weight in expected.items())
    assert metrics(tmp_path) == metrics(whole)


def test_nothing_at_the_address(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        training = Training(
            tmp_path, *SMALL, *TWO, f"rollout.server.url={url}", "rollout.server.patience_s=0.5",
            script=SCRIPT,
        )  # fmt: skip
        assert training.wait() == 2, training.output
    assert training.output.count("error: ") == 1, training.output
    assert f"error: rollout.server.url={url}: no vLLM server (" in training.output
    assert "Traceback" not in training.output
