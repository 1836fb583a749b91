"""Passes of one precision in every command: training, its test, evaluation and scoring."""

from __future__ import annotations

import csv
import statistics
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tools.faults.small_set import write_kadid
from vqr1.cli import evaluate, score, train
from vqr1.distributed import hardware

pytestmark = pytest.mark.slow

SET = ("dataset=kadid", "dataset.root=kadid", "dataset.split.by=reference",
       "dataset.split.fractions=[0.5,0.25,0.25]", "loader.workers=0")  # fmt: skip
TRAINED = (
    *SET, "max_steps=2", "loader.batch_size=4", "validation.every_steps=2", "optimizer.lr=0.001",
    "validation.samples=2", "validation.batch_size=4", "validation.bootstrap_draws=20",
    "grpo.group_size=2", "rollout.sampling.max_new_tokens=24", "callbacks.progress=false",
    "logger=none", "run_dir=out",
)  # fmt: skip
EXPECTED = ("model.path=out/export", "mode=expected")
ASKED = ("model.path=out/export", "mode=sampled", "mode.samples=2",
         "mode.sampling.max_new_tokens=24", "seed=1")  # fmt: skip


def scores(file: Path, name: str) -> dict[str, list[str]]:
    """What the file states of each image: the score, and every answer."""
    found: dict[str, list[str]] = {}
    with file.open() as rows:
        for row in csv.DictReader(rows):
            found.setdefault(Path(row[name]).name, []).append(row["score"])
    return found


@pytest.fixture
def halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any processor multiplies bfloat16, most of them slowly."""
    monkeypatch.setattr(hardware, "multiplies_bfloat16", lambda: True)


@pytest.mark.usefixtures("halves")
def test_an_export_is_evaluated_and_scored_as_it_was_tested(run: Command, tmp_path: Path) -> None:
    write_kadid(tmp_path / "kadid", references=4)
    outcome = run(train.main, *TRAINED, "hardware=cpu_bf16", "seed=1")
    assert outcome.code == 0, outcome.err
    tested = scores(tmp_path / "out/predictions/test_after.csv", "image")
    assert tested
    modes = (("half", "cpu_bf16", ASKED), ("sure", "cpu_bf16", EXPECTED), ("full", "cpu", EXPECTED))
    found = {}
    for name, precision, asked in modes:
        outcome = run(
            evaluate.main, *SET, *asked, f"hardware={precision}", "loader.batch_size=4",
            "logger=none", f"run_dir={name}", "statistics.bootstrap_draws=20",
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
        found[name] = scores(tmp_path / name / "predictions.csv", "image")
    assert found["half"] == tested
    # The precision reaches the passes: float32 has other expectations of every image.
    assert all(found["full"][image] != values for image, values in found["sure"].items())
    images = sorted(path for path in (tmp_path / "kadid/images").iterdir() if path.name in tested)
    outcome = run(
        score.main, *map(str, images), *ASKED, "hardware=cpu_bf16", "batch_size=4",
        "output=scores.csv",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    scored = scores(tmp_path / "scores.csv", "path")
    assert {name: float(rows[0]) for name, rows in scored.items()} == pytest.approx(
        {name: statistics.fmean(map(float, rows)) for name, rows in tested.items()}
    )
