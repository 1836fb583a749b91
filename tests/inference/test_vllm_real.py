"""vLLM itself on a CPU as a backend, in this process and as a server (`make test-vllm`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import Command, run, write_kadid  # noqa: F401
from tests.evaluation.test_server import SMALL
from tests.inference.test_processes import TORCHRUN, metrics, srun
from tests.support.commands import REPOSITORY, Training
from tests.support.images import noise_image
from tests.support.real_vllm import needs_vllm
from tests.support.scored import results
from vqr1.cli import evaluate
from vqr1.evaluation.prediction_file import read_predictions

pytestmark = needs_vllm

# The checkpoint's own processor would resize some of them again.
IMAGES = [
    noise_image(seed, *size)
    for seed, size in enumerate([(84, 56), (200, 90), (61, 180), (112, 112), (28, 1500)])
]
ENGINE = (
    "backend=vllm", "backend.gpu_memory_utilization=0.1", "backend.max_model_len=512",
    "backend.enforce_eager=true",
)  # fmt: skip


@pytest.mark.parametrize("place", ["process", "server"])
def test_answers_are_those_of_the_local_engine(place: str, request: Any) -> None:
    backend: tuple[str, ...] = ENGINE
    if place == "server":
        backend = ("backend=openai", f"backend.url={request.getfixturevalue('real_vllm')}/v1")
    greedy = ("mode=greedy", "mode.sampling.max_new_tokens=60")
    own = results(IMAGES, *greedy)
    theirs = results(IMAGES, *greedy, *backend)
    assert theirs == own
    # The decimals are taken as independent of the first digit there, and 5 as able to continue.
    expected = results(IMAGES, "mode=expected", *backend)
    close = results(IMAGES, "mode=expected")
    assert [r.text for r in expected] == [r.text for r in close]
    assert [r.score for r in expected] == pytest.approx([r.score for r in close], abs=0.15)
    sampled = ("mode=sampled", "mode.samples=3", "mode.sampling.max_new_tokens=60", *backend)
    first = results(IMAGES, *sampled, "seed=3")
    assert results(IMAGES, *sampled, "seed=3") == first
    assert results(IMAGES, *sampled, "seed=4") != first


@pytest.mark.parametrize("place", ["process", "server"])
def test_answers_to_two_images_are_those_of_the_local_engine(place: str, request: Any) -> None:
    backend: tuple[str, ...] = ENGINE
    if place == "server":
        backend = ("backend=openai", f"backend.url={request.getfixturevalue('real_vllm')}/v1")
    asked = (
        "mode=greedy", "mode.sampling.max_new_tokens=60", "prompt.images=2",
        "prompt.text='Left <image>, right <image>: which is better?'", "prompt.system='Compare.'",
    )  # fmt: skip
    pairs = [(IMAGES[0], IMAGES[3]), (IMAGES[3], IMAGES[0]), (IMAGES[4], IMAGES[4])]
    assert results(pairs, *asked, *backend) == results(pairs, *asked)


def test_eval_has_the_metrics_of_the_local_engine(
    run: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    """In one process, and in two ranks with an engine each."""
    root = write_kadid(tmp_path / "kadid", references=3)
    small = (*SMALL, f"dataset.root={root}", "hardware.threads=1")
    assert srun("vqr1.cli.evaluate", tmp_path, *small, *ENGINE, "run_dir=tasks") == [0, 0]
    launched = Training(
        tmp_path, *small, *ENGINE, "run_dir=launched", launcher=TORCHRUN,
        script=REPOSITORY / "eval.py",
    )  # fmt: skip
    assert launched.wait() == 0, launched.output
    for folder, more in (("local", ()), ("vllm", ENGINE)):
        found = run(evaluate.main, *small, *more, f"run_dir={folder}")
        assert found.code == 0, found.err
    own = read_predictions(tmp_path / "local/predictions.csv")
    for folder in ("vllm", "tasks", "launched"):
        theirs = read_predictions(tmp_path / folder / "predictions.csv")
        assert theirs.images == own.images
        assert theirs.texts == own.texts
        np.testing.assert_array_equal(theirs.scores, own.scores)
        assert metrics(tmp_path / folder) == metrics(tmp_path / "local")
