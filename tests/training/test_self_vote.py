"""`target=self_vote`: votes, what is learned from them, and that MOS takes no part."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch

from tests.cli.conftest import Command, run, write_kadid  # noqa: F401
from tests.faults.test_stages import holder
from tests.support.commands import Training, state
from tests.support.commands import run as run_command
from tests.support.tiny_models import linear_of_a_family
from vqr1.cli.compose import compose_config, plain_values
from vqr1.cli.train import main
from vqr1.cli.vote_rounds import with_rounds
from vqr1.config import TrainConfig, validate
from vqr1.data.images import load_image
from vqr1.data.labelled_set import open_dataset
from vqr1.data.pair_training import drawn_pairs, read_votes, voted
from vqr1.distributed.environment import RankInfo
from vqr1.distributed.stop_requests import StopRequests
from vqr1.errors import EXIT_INTERRUPTED, ConfigError, DataError, Interrupted
from vqr1.records import PromptBatch, Rollout
from vqr1.rewards.build import build_rewards
from vqr1.sweeps.chain_plan import links_of
from vqr1.training import self_vote
from vqr1.training.checks import check_training
from vqr1.training.self_vote import (
    Ballot,
    _collect,
    _Comparisons,
    _keep_only,
    _settings,
    _write,
    cast_votes,
)

SMALL = (
    "max_steps=2", "loader.batch_size=4", "loader.workers=0", "validation.every_steps=1",
    "validation.samples=0", "validation.bootstrap_draws=20", "grpo.group_size=3", "logger=csv",
    "callbacks.progress=false", "rollout.sampling.max_new_tokens=48", "hardware.threads=1",
)  # fmt: skip
VOTES = ("target=self_vote", "votes.by=scores", "votes.count=3", "votes.pairs_per_image=2")
PAIRS = [(0, 1), (1, 2), (2, 3), (0, 3), (1, 3)]


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


def test_a_signal_stops_between_the_files_of_votes(tmp_path: Path) -> None:
    asked: list[tuple[int, ...]] = []
    stops = StopRequests()

    def ask(items: Sequence[tuple[int, ...]]) -> list[dict[str, Any]]:
        asked.extend(items)
        stops.signal = "SIGTERM" if len(asked) == 4 else None
        return [{"pair": list(item)} for item in items]

    ballot = Ballot(Mock(), Mock(), PAIRS, 2, ask, Mock())
    with pytest.raises(Interrupted):
        _collect(ballot, tmp_path / "kadid", "votes", stops)
    assert asked == PAIRS[:4]
    stops.signal = None
    records = _collect(ballot, tmp_path / "kadid", "votes", stops)
    assert [tuple(record["pair"]) for record in records] == PAIRS == asked


def test_votes_by_other_settings_are_cast_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data: Any = SimpleNamespace(prompt_text="Rate it.", digests=dict)
    policy: Any = SimpleNamespace(model=linear_of_a_family())

    def settings(*overrides: str) -> dict[str, Any]:
        return _settings(config_of("target=self_vote", *overrides), data, policy)

    file, part = tmp_path / "kadid.csv", tmp_path / "kadid/000000.jsonl"
    # Parts of an earlier version state no settings; finished preferences stay.
    part.parent.mkdir()
    part.write_text("{}")
    file.write_text("first,second\n")
    _keep_only(settings(), file)
    assert (part.exists(), file.exists()) == (False, True)
    part.write_text("{}")
    _keep_only(settings("validation.samples=3"), file)
    assert (part.exists(), file.exists()) == (True, True)
    assert not caplog.messages
    _keep_only(settings("votes.by=scores"), file)
    assert (part.exists(), file.exists()) == (False, False)
    (line,) = caplog.messages
    assert line.endswith("votes of another votes, cast again")


def test_votes_are_cast_in_the_precision_of_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: Any) -> list[dict[str, Any]]:
        seen.append(torch.is_autocast_enabled("cpu"))
        raise DataError("asked")

    seen: list[bool] = []
    monkeypatch.setattr(self_vote, "_ballot", Mock())
    monkeypatch.setattr(self_vote, "_collect", ask)
    data: Any = SimpleNamespace(
        prompt_text="Rate it.",
        digests=dict,
        sets={"kadid": Mock()},
        training_pairs={"kadid": Mock()},
    )
    policy: Any = SimpleNamespace(model=linear_of_a_family())
    log: Any = SimpleNamespace(run_dir=tmp_path)
    (tmp_path / "votes").mkdir()
    for precision in ("bf16-mixed", "32-true"):
        config = config_of("target=self_vote", f"hardware.precision={precision}")
        with pytest.raises(DataError, match="asked"):
            cast_votes(config, data, policy, log, StopRequests())
    assert seen == [True, False]


@pytest.mark.parametrize(
    ("votes", "message"),
    [
        ([0, 0, 0, 8], "none of 24 votes on kadid could be read; .* use votes.by=scores, raise"),
        ([3, 3, 1, 1], "every pair of kadid is a tie, so that nothing can be learnt; raise votes"),
    ],
)
def test_votes_that_state_nothing(tmp_path: Path, votes: list[int], message: str) -> None:
    root = write_kadid(tmp_path / "kadid")
    config = config_of("dataset=kadid", f"dataset.root={root}")
    labelled = open_dataset(config.dataset)
    pairs = drawn_pairs(labelled, 2, seed=1).stated
    ballot = Ballot(labelled, pairs, [], 1, Mock(), lambda records: np.array([votes] * 3))
    with pytest.raises(DataError, match=f"^target=self_vote, votes.by=comparisons: {message}"):
        _write(ballot, [], tmp_path / "kadid.csv", Mock(), config)
    assert not (tmp_path / "kadid.csv").exists()


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
    (line,) = problems("votes.text=' '")
    assert line.startswith("votes.text: it is empty")
    (line,) = problems("target=mos", "votes.rounds=2")
    assert line.startswith("votes.rounds=2, target=mos: nothing is voted on")
    keys = ("votes.count=0", "votes.pairs_per_image=0", "votes.rounds=0", "votes.by=words")
    with pytest.raises(ConfigError) as refused:
        config_of(*keys)
    assert [line.split("=")[0] for line in sorted(refused.value.problems)] == sorted(
        key.split("=")[0] for key in keys
    )
    (line,) = problems("stage=sft", "prompt=non_thinking")
    assert line.startswith("target=self_vote, stage=sft")
    (line,) = problems("reward=margin_sigma", "votes.by=scores")
    assert "standard deviations" in line


def test_rounds_are_a_chain() -> None:
    asked = ["target=self_vote", "votes.rounds=3", "seed=7"]
    given = with_rounds(RankInfo(), asked)
    entries = ",".join(f"'grpo votes.rounds=1 seed={seed}'" for seed in (7, 1007, 2007))
    assert given == [*asked, f"chain=[{entries}]"]
    links = links_of(given)
    assert [link.name for link in links] == ["1_grpo", "2_grpo", "3_grpo"]
    assert links[2].overrides[-3:] == ("stage=grpo", "votes.rounds=1", "seed=2007")
    assert with_rounds(RankInfo(), ["method=evoquality"])[1:] == [
        "chain=['grpo votes.rounds=1 seed=1','grpo votes.rounds=1 seed=1001']"
    ]
    for alone in (
        ["votes.rounds=3"], ["-m", *asked], [*asked, "resume=run"], [*asked, "chain=[grpo]"],
        ["method=evoquality", "votes.rounds=1"], ["method=q_hawkeye"],
    ):  # fmt: skip
        assert with_rounds(RankInfo(), alone) == alone
    assert with_rounds(RankInfo(launched=True), asked) == asked


@pytest.mark.slow
def test_mos_takes_no_part(
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


MANY = (
    "dataset=demo", "dataset.max_images=130", "validation.max_images=4", "validation.test=false",
    *SMALL, *VOTES, "run_dir=run",
)  # fmt: skip
"""130 training images: votes come in three files."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    run_command(folder, *MANY, "votes.rounds=2")
    return folder


def votes_of(run_dir: Path) -> dict[str, bytes]:
    """Every file of votes, by name."""
    files = [file for file in (run_dir / "votes").rglob("*") if file.is_file()]
    return {file.name: file.read_bytes() for file in files}


@pytest.mark.slow
def test_rounds_killed_and_resumed_to_the_same_bits(whole: Path, tmp_path: Path) -> None:
    rounds = [tmp_path / "run/1_grpo", tmp_path / "run/2_grpo"]
    first, second = (run_dir / "votes/demo" for run_dir in rounds)
    chain = Training(tmp_path, *MANY, "votes.rounds=2")
    # Within the votes of the first round, and between those of the second and its first step.
    moments = (first / "000001.jsonl", second.with_suffix(".csv"))
    for run_dir, written in zip(rounds, moments, strict=True):
        chain.wait_for(written.is_file)
        holder(run_dir / "run.lock").kill()
        assert chain.wait() not in (0, EXIT_INTERRUPTED)
        assert f"chain: {run_dir.name} failed" in chain.output
        asked_at = (first / "000000.jsonl").stat().st_mtime_ns
        chain = Training(tmp_path, "resume=run")
    assert chain.wait() == 0, chain.output
    # What had been answered was not asked again.
    assert (first / "000000.jsonl").stat().st_mtime_ns == asked_at
    assert len(votes_of(rounds[0])) == 5
    for run_dir in rounds:
        expected = whole / "run" / run_dir.name
        assert votes_of(run_dir) == votes_of(expected)
        found, weights = state(run_dir, 2), state(expected, 2)
        assert all(torch.equal(found[name], weight) for name, weight in weights.items())
        logs = [pd.read_csv(folder / "metrics.csv") for folder in (run_dir, expected)]
        kept = [name for name in logs[0] if "time/" not in name and "memory" not in name]
        pd.testing.assert_frame_equal(logs[0][kept], logs[1][kept])
    # The second round votes with other weights, on other pairs.
    assert votes_of(rounds[0])["demo.csv"] != votes_of(rounds[1])["demo.csv"]


@pytest.mark.slow
def test_two_processes_cast_the_votes_of_one(whole: Path, tmp_path: Path) -> None:
    two = ("hardware=cpu_2procs", "hardware.threads=1", "loader.batch_size=2", "max_steps=1")
    run_command(tmp_path, *MANY, *two)
    assert votes_of(tmp_path / "run") == votes_of(whole / "run/1_grpo")
