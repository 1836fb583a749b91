"""`target=self_vote`: votes, what is learned from them, and that MOS takes no part."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.cli.conftest import Command, run, write_kadid  # noqa: F401
from vqr1.cli.compose import compose_config, plain_values
from vqr1.cli.train import main
from vqr1.cli.vote_rounds import with_rounds
from vqr1.config import TrainConfig, validate
from vqr1.data.images import load_image
from vqr1.data.labelled_set import open_dataset
from vqr1.data.pair_training import drawn_pairs, read_votes, voted
from vqr1.distributed.environment import RankInfo
from vqr1.errors import ConfigError
from vqr1.records import PromptBatch, Rollout
from vqr1.rewards.build import build_rewards
from vqr1.sweeps.chain_plan import links_of
from vqr1.training.checks import check_training
from vqr1.training.self_vote import _Comparisons

SMALL = (
    "max_steps=2", "loader.batch_size=4", "loader.workers=0", "validation.every_steps=1",
    "validation.samples=0", "validation.bootstrap_draws=20", "grpo.group_size=3", "logger=csv",
    "callbacks.progress=false", "rollout.sampling.max_new_tokens=48", "hardware.threads=1",
)  # fmt: skip
VOTES = ("target=self_vote", "votes.by=scores", "votes.count=3", "votes.pairs_per_image=2")


def config_of(*overrides: str) -> TrainConfig:
    return validate(TrainConfig, plain_values(compose_config("train", ["run_dir=run", *overrides])))


class BrighterIsBetter:
    """Prefers the brighter image; every fifth response is prose."""

    def __init__(self) -> None:
        self.asked: list[PromptBatch] = []

    def sample(self, prompts: PromptBatch, *, group_size: int, **keys: Any) -> Rollout:
        self.asked.append(prompts)
        texts = []
        for first, second in prompts.images:
            better = int(second.float().mean() > first.float().mean())
            texts.append(["neither" if k % 5 == 4 else f"{better}" for k in range(group_size)])
        none = torch.zeros(len(prompts), group_size, 1)
        return Rollout(none.long(), none.bool(), texts, none[..., 0].bool())


def test_comparisons_in_both_orders(tmp_path: Path) -> None:
    root = write_kadid(tmp_path / "kadid")
    config = config_of("dataset=kadid", f"dataset.root={root}", "votes.count=10")
    labelled, engine = open_dataset(config.dataset), BrighterIsBetter()
    drawn = drawn_pairs(labelled, 4, seed=1)
    pairs = list(zip(drawn.stated.first.tolist(), drawn.stated.second.tolist(), strict=True))
    comparisons = _Comparisons(config, labelled, engine)
    votes = comparisons.count(comparisons.ask(pairs))
    rows = sorted({row for pair in pairs for row in pair})
    bright = {
        row: comparisons.prompts.resize(load_image(labelled.image_path(row))).float().mean().item()
        for row in rows
    }
    # Of five responses in each order four can be read.
    expected = [[8, 0, 0, 2] if bright[i] >= bright[j] else [0, 8, 0, 2] for i, j in pairs]
    assert votes.tolist() == expected
    (asked,) = engine.asked
    assert len(asked) == 2 * len(pairs)
    assert torch.equal(asked.images[0][0], asked.images[1][1])


def test_drawn_pairs_and_their_file(tmp_path: Path) -> None:
    root = write_kadid(tmp_path / "kadid")
    config = config_of("dataset=kadid", f"dataset.root={root}", "dataset.split.fractions=[1,0,0]")
    labelled = open_dataset(config.dataset)
    n = len(labelled.rows("train"))
    few, again = drawn_pairs(labelled, 2, seed=1), drawn_pairs(labelled, 2, seed=1)
    degree = np.bincount(np.concatenate([few.stated.first, few.stated.second]), minlength=n)
    # One circle through all images.
    assert (degree == 2).all()
    assert few.stated.digest() == again.stated.digest()
    assert few.stated.digest() != drawn_pairs(labelled, 2, seed=2).stated.digest()
    every = drawn_pairs(labelled, n, seed=1).stated
    assert len(every) == n * (n - 1) // 2
    assert (every.votes == 0).all()
    # Read back by name, in whatever order; ties and all.
    names = labelled.table["label_name"].to_numpy()
    p = np.resize([1.0, 0.5, 0.0], len(few.stated))
    rows = {"first": names[few.stated.first], "second": names[few.stated.second], "preference": p}
    pd.DataFrame(rows)[::-1].to_csv(tmp_path / "kadid.csv", index=False)
    stated = read_votes(tmp_path / "kadid.csv", labelled)
    assert stated.preference.tolist() == p.tolist()
    learned = voted(few, stated, labelled)
    assert learned.graph is few.graph
    assert (learned.scores.min(), learned.scores.max()) == (1.0, 5.0)


def test_refused() -> None:
    def problems(*overrides: str) -> list[str]:
        config = config_of("target=self_vote", *overrides)
        with pytest.raises(ConfigError) as refused:
            check_training(config, build_rewards(config.reward))
        return refused.value.problems

    (line,) = problems("votes.count=3")
    assert line.startswith("votes.count=3: half of the comparisons")
    (line,) = problems("votes.text='<image> better?'")
    assert line.startswith("votes.text: it holds <image> 1 times")
    (line,) = problems("votes.by=scores", "votes.rounds=2")
    assert line.startswith("votes.rounds=2: rounds are trainings")
    (line,) = problems("stage=sft", "prompt=non_thinking")
    assert line.startswith("target=self_vote, stage=sft")
    (line,) = problems("reward=margin_sigma", "votes.by=scores")
    assert "standard deviations" in line


def test_rounds_are_a_chain() -> None:
    entry = "'grpo votes.rounds=1'"
    asked = ["target=self_vote", "votes.rounds=3"]
    assert with_rounds(RankInfo(), asked) == [*asked, f"chain=[{entry},{entry},{entry}]"]
    links = links_of(with_rounds(RankInfo(), asked))
    assert [link.name for link in links] == ["1_grpo", "2_grpo", "3_grpo"]
    assert links[2].overrides == ("target=self_vote", "stage=grpo", "votes.rounds=1")
    assert with_rounds(RankInfo(), ["method=evoquality"])[1:] == [f"chain=[{entry},{entry}]"]
    for alone in (
        ["votes.rounds=3"], ["-m", *asked], [*asked, "resume=run"], [*asked, "chain=[grpo]"],
        ["method=evoquality", "votes.rounds=1"], ["method=q_hawkeye"],
    ):  # fmt: skip
        assert with_rounds(RankInfo(), alone) == alone
    assert with_rounds(RankInfo(launched=True), asked) == asked


@pytest.mark.slow
def test_votes_train_without_mos_and_resume_to_the_same_bits(
    run: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    root = write_kadid(tmp_path / "set")
    common = (
        "dataset=kadid", "dataset.split.by=reference", "dataset.split.fractions=[0.5,0.25,0.25]",
        *SMALL, *VOTES,
    )  # fmt: skip
    first = run(main, *common, f"dataset.root={root}", "run_dir=first")
    assert first.code == 0, first.err
    assert "for evaluation only" in first.out
    # The file states what the answers do.
    (kept,) = (tmp_path / "first/votes/kadid").glob("*.jsonl")
    scores = [json.loads(line)["scores"] for line in kept.read_text().splitlines()]
    table = pd.read_csv("first/votes/kadid.csv")
    assert set(table["preference"]) <= {0.0, 0.5, 1.0}
    assert (table[["wins", "losses", "equal", "unread"]].sum(axis=1) == 9).all()
    assert len(scores) == len(set(table["first"]) | set(table["second"]))
    log = pd.read_csv("first/metrics.csv")
    assert log["votes/mos_agreement/kadid"].dropna().between(0, 1).all()
    # Turned MOS: the same votes, the same weights, and those of the last step are exported.
    turned = tmp_path / "turned_set"
    shutil.copytree(root, turned)
    labels = pd.read_csv(turned / "dmos.csv")
    labels["dmos"] = 6.0 - labels["dmos"]
    labels.to_csv(turned / "dmos.csv", index=False)
    second = run(main, *common, f"dataset.root={turned}", "run_dir=second")
    assert second.code == 0, second.err
    names = ("votes/kadid.csv", "export/model.safetensors")
    for name in names:
        assert Path("first", name).read_bytes() == Path("second", name).read_bytes(), name
    assert not list(Path("second/checkpoints").glob("best_*"))
    key = "votes/mos_agreement/kadid"
    other = pd.read_csv("second/metrics.csv")[key].dropna()
    assert other.tolist() == pytest.approx((1 - log[key].dropna()).tolist())
