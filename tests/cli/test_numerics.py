"""Numbers that are not finite, and steps of zero-variance groups, as a user sees them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import Command
from tests.support.images import noise_image
from tools.faults.killed_sweep import TINY_RUN
from tools.faults.small_set import write_kadid
from vqr1.cli import evaluate, score, train
from vqr1.cli.compose import compose_config, plain_values
from vqr1.config import ScoreConfig, validate
from vqr1.policy.export import export_checkpoint
from vqr1.policy.loading import load_policy

pytestmark = pytest.mark.medium

OWN = """
import torch

class Own:
    ranks = False

    def __init__(self, kind):
        self.kind = kind

    def __call__(self, inputs):
        count, responses = inputs.scores.shape
        if self.kind == "broken":
            return inputs.scores * float("nan")
        shape = {"one": (count, 1), "row": (responses,), "zero": (count, responses)}[self.kind]
        return torch.zeros(shape)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_kadid(tmp_path / "kadid")
    (tmp_path / "own_reward.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def own(kind: str) -> tuple[str, ...]:
    return (
        "+reward.terms.own._target_=own_reward.Own", f"+reward.terms.own.kind={kind}",
        "~reward.terms.format",
    )  # fmt: skip


@pytest.mark.usefixtures("place")
def test_a_policy_that_has_blown_up_stops_with_74(run: Command) -> None:
    outcome = run(
        train.main, *TINY_RUN, "reward=mse", "optimizer.lr=1e12", "max_steps=4", "logger=none",
        "validation.every_steps=4", "run_dir=out",
    )  # fmt: skip
    assert outcome.code == 74, outcome.err
    last = outcome.err.strip().splitlines()[-1]
    assert last.startswith("error: the model's logits are NaN or infinite in ")
    assert "lower optimizer.lr" in last
    assert "resume=out" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("kind", "code", "printed"),
    [
        # B = 4 images, K = 2 responses
        (
            "one",
            2,
            "error: reward.terms.own: gave the shape [4, 1]; it must return a [B, K] = [4, ",
        ),
        ("row", 2, "error: reward.terms.own: gave the shape [2]; it must return a [B, K] = [4, 2]"),
        (
            "broken",
            74,
            "error: reward.terms.own: gave nan for response 0 of image 0 (8 of 8 rewards)",
        ),
    ],
)
def test_a_reward_that_is_none_is_named(run: Command, kind: str, code: int, printed: str) -> None:
    outcome = run(train.main, *TINY_RUN, *own(kind), "logger=none", "run_dir=out")
    assert outcome.code == code, outcome.err
    assert printed in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.slow
@pytest.mark.usefixtures("place")
def test_a_run_of_zero_variance_groups_reports_why(run: Command) -> None:
    outcome = run(
        train.main, *TINY_RUN, *own("zero"), "max_steps=2", "logger=csv", "run_dir=out",
        "rollout.sampling.max_new_tokens=32",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    (message,) = [m for m in outcome.out.splitlines() if "zero variance: " in m]
    assert "step 2: zero variance: in none of the first 2 steps did the rewards" in message
    assert "scores that differ and earn the same" in message
    assert "train/zero_variance/equal_rewards" in Path("out/metrics.csv").read_text()


def broken_checkpoint(folder: Path) -> Path:
    config = validate(ScoreConfig, plain_values(compose_config("score", [])))
    policy = load_policy(config.model)
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.fill_(math.nan)
    return export_checkpoint(policy, folder)


def test_a_checkpoint_of_nan_scores_nothing(run: Command, place: Path) -> None:
    broken_checkpoint(place / "broken")
    noise_image(0).save(place / "one.png")
    outcome = run(score.main, "one.png", "model.path=broken", "output=scores.csv")
    assert outcome.code == 2
    assert "error: model.path=broken: " in outcome.err
    assert "weights hold NaN or infinity as float32" in outcome.err
    assert not (place / "scores.csv").exists()
    trained = run(train.main, *TINY_RUN, "model.path=broken", "logger=none", "run_dir=out")
    assert trained.code == 2
    assert "error: model.path=broken: " in trained.err
    tested = run(
        evaluate.main, "dataset=kadid", "dataset.root=kadid", "dataset.split.by=none",
        "model.path=broken", "run_dir=eval",
    )  # fmt: skip
    assert tested.code == 2
    assert "error: model.path=broken: " in tested.err
