"""What a user of the version before this one has on the disk serves with this one.

`f0df201.tar.xz` was made by `make_archive.py` at commit f0df201; each test has it unpacked.
"""

from __future__ import annotations

import io
import json
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

from tools.faults.forked import run_program

pytestmark = pytest.mark.slow

ARCHIVE = Path(__file__).with_name("f0df201.tar.xz")
MADE_IN = "/tmp/vqr1_f0df201"
MODEL = (
    "model.name=random", "prompt=non_thinking", "model.min_pixels=3136", "model.max_pixels=3136",
    "hardware.threads=1",
)  # fmt: skip
MODE = ("mode=sampled", "mode.sampling.max_new_tokens=16")
SET = (
    "dataset=csv", "dataset.root=photos", "dataset.columns.reference=reference",
    "dataset.columns.std=std", "dataset.split.by=reference",
    "dataset.split.fractions=[0.5,0.25,0.25]", "loader.workers=0",
)  # fmt: skip
EVALUATE = (*SET, *MODEL, *MODE, "report.plots=false", "statistics.bootstrap_draws=50")
TEXT = {".json", ".jsonl", ".yaml", ".csv", ".txt", ".md"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder, as if it had been made where it is."""
    assert ARCHIVE.stat().st_size < 2**21
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    for file in tmp_path.rglob("*"):
        if file.is_file() and file.suffix in TEXT:
            text = file.read_text(encoding="utf-8")
            if MADE_IN in text:
                file.write_text(text.replace(MADE_IN, str(tmp_path)), encoding="utf-8")
    addresses = [
        ("experiments", "artifact_location"), ("runs", "artifact_uri"), ("tags", "value"),
        ("params", "value"),
    ]  # fmt: skip
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        for table, column in addresses:
            statement = f"update {table} set {column} = replace({column}, ?, ?)"
            database.execute(statement, (MADE_IN, str(tmp_path)))
    return tmp_path


def run(folder: Path, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_program([sys.executable, "-m", "vqr1", command, *arguments], cwd=folder)


def done(folder: Path, command: str, *arguments: str) -> str:
    """What a command printed that had to succeed."""
    outcome = run(folder, command, *arguments)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return outcome.stdout


def scores(evaluation: Path) -> pd.Series:
    """The answers' scores by image and sample; NaN where an answer is invalid."""
    table = pd.read_csv(evaluation / "predictions.csv").set_index(["image", "sample"])["score"]
    assert table.notna().sum() > len(table) / 2
    return table


def test_its_export_is_evaluated_and_compared(folder: Path) -> None:
    done(folder, "eval", *EVALUATE, "model.path=export", "run_dir=new")
    pd.testing.assert_series_equal(
        scores(folder / "new"), scores(folder / "evaluation"), rtol=0, atol=1e-5
    )
    done(folder, "eval", "compare=[evaluation,new]", "run_dir=compared")
    assert (folder / "compared/summary.json").is_file()


def test_its_run_is_evaluated(folder: Path) -> None:
    run_id = json.loads((folder / "run/summary.json").read_text())["mlflow_run_id"]
    done(folder, "eval", *EVALUATE, f"model.run={run_id}", "run_dir=new")
    pd.testing.assert_series_equal(
        scores(folder / "new"), scores(folder / "evaluation"), rtol=0, atol=1e-5
    )


def test_its_evaluation_is_evaluated_again(folder: Path) -> None:
    before = (folder / "evaluation/predictions.csv").read_bytes()
    printed = done(folder, "eval", *EVALUATE, "model.path=export", "run_dir=evaluation")
    assert "already scored" in printed
    assert (folder / "evaluation/predictions.csv").read_bytes() == before


def test_its_sweep_is_summarised(folder: Path) -> None:
    record = json.loads((folder / "sweep/sweep.json").read_text())
    by_folder = done(folder, "summarize", "folder=sweep", "output=a")
    by_parent = done(
        folder, "summarize", f"parent={record['parent_run_id']}", "output=b",
        f"tracking_uri=sqlite:///{folder}/mlflow.db",
    )  # fmt: skip
    for printed in (by_folder, by_parent):
        assert "fidelity" in printed
        assert "mse" in printed


def test_its_result_file_is_continued(folder: Path) -> None:
    file = folder / "scores.csv"
    rows = file.read_text().splitlines(keepends=True)
    file.write_text("".join(rows[:-5]))
    images = "photos/images"
    # The questions of that version began with `Picture 1: `.
    asked = (*MODEL, "model.path=model", *MODE, "prompt.vision_id=true")
    done(folder, "score", images, *asked, "output=scores.csv")
    before, now = (pd.read_csv(table) for table in (io.StringIO("".join(rows)), file))
    assert len(now) == 24
    # Columns have been added since.
    pd.testing.assert_frame_equal(now[before.columns], before, rtol=0, atol=1e-5)


def test_its_run_is_exported(folder: Path) -> None:
    done(folder, "export", "run=run", "output=new")
    weights = [(folder / name / "model.safetensors").read_bytes() for name in ("new", "export")]
    assert weights[0] == weights[1]


def test_its_stopped_run_is_resumed(folder: Path) -> None:
    done(folder, "train", "resume=stopped")
    assert (folder / "stopped/checkpoints/step_00000030.ckpt").is_file()
    assert (folder / "stopped/summary.json").is_file()


@pytest.mark.parametrize("resume", ["auto", "sweep"])
def test_its_sweep_is_refused_in_one_line(folder: Path, resume: str) -> None:
    outcome = run(
        folder, "train", "-m", *SET, *MODEL, "model.path=model", "reward=fidelity,mse",
        "loss.kl_weight=0.1", "hydra.sweep.dir=sweep", f"sweep.resume={resume}",
    )  # fmt: skip
    assert outcome.returncode == 2
    (line,) = outcome.stderr.splitlines()
    assert "an earlier version began this sweep (" in line
    assert all(key in line for key in ("grpo.loss", "grpo.clip", "loader.images_per_batch"))
    assert "`python -m vqr1 summarize folder=sweep` still shows it" in line
