"""The MLflow page of a real sweep, in a real Chromium over a real server."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.screenshot_mlflow import main as tour
from tools.faults.mlflow_database import new_database

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("chromium") or shutil.which("chromium-browser")),
        reason="no system Chromium on this machine",
    ),
]


def test_shows_parent_children_charts_and_artifacts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    new_database(tmp_path / "mlflow.db")
    command = [sys.executable, str(ROOT / "train.py"), "-m", "experiment=smoke"]
    at_once = [
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
    ]
    small = ["max_steps=2", "validation.every_steps=1", "loader.batch_size=2"]
    sweep = ["reward=fidelity,mse", "validation.max_images=8", "hardware.threads=1"]
    argv = [*command, *at_once, *small, *sweep]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr

    tour(["images"])  # fails where a page lacks what it should show
    taken = {path.stem for path in Path("images").iterdir()}
    assert taken == {
        "mlflow_runs", "mlflow_charts", "mlflow_compare", "mlflow_answers", "mlflow_scatter",
        "mlflow_summary",
    }  # fmt: skip
    for path in Path("images").iterdir():
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 10  # an empty page is of one colour


def test_no_sweep_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"^error: sqlite:///none\.db: no sweep with two finished"):
        tour(["images", "--uri", "sqlite:///none.db"])
