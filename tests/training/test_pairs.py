"""`target=pairs` of a training: rewards of a step by stated preferences, and whole short runs."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.cli.conftest import Command, run, write_kadid  # noqa: F401
from tests.training.test_scored_rollout import rollout
from vqr1.cli.train import main
from vqr1.iqa.answers import PUBLISHED
from vqr1.iqa.preferences import StatedPairs
from vqr1.iqa.thurstone import preference_fidelity
from vqr1.rewards import FidelityReward, MseReward, WeightedRewards
from vqr1.training.scored_rollout import score_rollout

SCORES = [[1.0, 2.0], [4.0, 2.5], [3.0, 3.5], [5.0, 4.0]]
TEXTS = [[f"<think>a</think><answer>{s}</answer>" for s in row] for row in SCORES]


def test_a_step_earns_by_stated_pairs_only() -> None:
    rewards = WeightedRewards({"fidelity": (1.0, FidelityReward()), "mse": (0.1, MseReward())})
    # Rows 7, 3, 9 and 5 of the table; 3 over 7 with two of three votes, 9 over 3 with one.
    votes = np.array([[2.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    pairs = StatedPairs.gather(np.array([3, 9]), np.array([7, 3]), *votes)
    scored, metrics = score_rollout(
        rollout(TEXTS, [[1, 1]] * 4, 2), torch.tensor([1.0, 2.0, 3.0, 4.0]), rewards,
        answer=PUBLISHED, images=torch.tensor([7, 3, 9, 5]), pairs=pairs,
    )  # fmt: skip
    nan = math.nan
    stated = torch.tensor([[nan, 1 / 3, nan, nan], [2 / 3, nan, 0.0, nan], [nan, 1.0, nan, nan],
                           [nan] * 4])  # fmt: skip
    expected = preference_fidelity(torch.tensor(SCORES), stated)
    torch.testing.assert_close(scored.terms["fidelity"], expected)
    assert scored.terms["fidelity"][3].tolist() == [0.0, 0.0]
    # A reward that looks at numbers gets those of every image.
    assert scored.terms["mse"][3].tolist() == [-1.0, 0.0]
    assert metrics["unpaired_rate"] == 0.25
    assert metrics["pairs_per_image"] == 1.0
    # In pools of two, rows 9 and 5 are not compared.
    _, halves = score_rollout(
        rollout(TEXTS, [[1, 1]] * 4, 2), torch.ones(4), rewards, answer=PUBLISHED, pool=2,
        images=torch.tensor([7, 3, 9, 5]), pairs=pairs,
    )  # fmt: skip
    assert halves["unpaired_rate"] == 0.5


SMALL = (
    "max_steps=2", "loader.batch_size=4", "loader.workers=0", "validation.every_steps=2",
    "validation.samples=0", "validation.bootstrap_draws=20", "grpo.group_size=3", "logger=csv",
    "callbacks.progress=false", "rollout.sampling.max_new_tokens=24",
)  # fmt: skip


@pytest.mark.slow
def test_pairs_of_the_mos_train_to_the_same_bits(run: Command, tmp_path: Path) -> None:  # noqa: F811
    """All pairs in the order of the MOS: the same batches, rewards and weights as MOS give."""
    root = write_kadid(tmp_path / "kadid")
    table = pd.read_csv(root / "dmos.csv")
    rows = [
        f"{a.dist_img},{b.dist_img},{(np.sign(a.dmos - b.dmos) + 1) / 2}"
        for a, b in itertools.combinations(table.itertuples(), 2)
    ]
    (root / "pairs.csv").write_text("first,second,preference\n" + "\n".join(rows))
    command = (
        "dataset=kadid", f"dataset.root={root}", "dataset.split.by=reference",
        "dataset.split.fractions=[0.5,0.25,0.25]", *SMALL,
    )  # fmt: skip
    pairs = ("dataset.pairs.file=pairs.csv", "dataset.pairs.codes=probability", "target=pairs",
             "callbacks.checkpoint.monitor=val/preference_accuracy")  # fmt: skip
    by_mos = run(main, *command, "run_dir=mos")
    assert by_mos.code == 0, by_mos.err
    by_pairs = run(main, *command, *pairs, "run_dir=pairs")
    assert by_pairs.code == 0, by_pairs.err
    logs = [pd.read_csv(f"{name}/metrics.csv") for name in ("mos", "pairs")]
    for name in ("train/reward/fidelity", "train/loss", "train/grad_norm", "val/srcc"):
        values = [log[name].dropna().tolist() for log in logs]
        assert values[0] == values[1], name
        assert values[0]
    assert logs[1]["train/unpaired_rate"].dropna().tolist() == [0, 0]
    assert logs[1]["train/pairs_per_image"].dropna().tolist() == [3, 3]
    # The accuracy over the pairs of validation images chooses the checkpoint, and is tested.
    accuracy = logs[1]["val/preference_accuracy"].dropna()
    assert len(accuracy) == 2
    assert accuracy.between(0, 1).all()
    assert "val/preference_accuracy" not in logs[0]
    assert logs[1]["test/preference_accuracy_after"].dropna().between(0, 1).all()
    assert "target=pairs, kadid:" in by_pairs.out
    # A set of the pairs alone, its numbers fitted to them, for a reward that subtracts.
    alone = run(
        main, "dataset=pairs", f"dataset.root={root}", "dataset.pairs.codes=probability",
        "dataset.split.fractions=[0.5,0.25,0.25]", *SMALL, "target=pairs", "reward=mse",
        "run_dir=alone",
    )  # fmt: skip
    assert alone.code == 0, alone.err
    log = pd.read_csv("alone/metrics.csv")
    assert (log["train/reward/mse"].dropna() <= 0).all()
    refused = run(main, *command, "target=pairs", "run_dir=none")
    assert refused.code == 2
    assert "target=pairs, dataset.pairs.file=None" in refused.err
