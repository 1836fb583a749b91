"""How scores move: numbers by hand, changes of images, and the command on the demo set."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from tests.cli.conftest import Command, run  # noqa: F401 - a fixture
from tests.evaluation.builders import predictions
from vqr1.cli.evaluate import main
from vqr1.evaluation.consistency import compare_passes, consistency_tables, stability
from vqr1.evaluation.perturbations import CHANGES


def test_stability_by_hand() -> None:
    found = stability(np.array([1.0, 2, 3, 3, np.nan, 4]), np.array([2.0, 1, 3, 5, 1, np.nan]))
    # |y - x| = 1, 1, 0, 2: mean 1. Pairs of (1,2) (2,1) (3,3) (3,5): the first two flip; the last
    # two are tied before: 1 of 5. Ranks 1 2 3.5 3.5 and 2 1 3 4.
    assert (found.images, found.lost, found.difference) == (4, 1, 1.0)
    assert found.flipped == pytest.approx(1 / 5)
    assert found.srcc == pytest.approx(stats.spearmanr([1, 2, 3, 3], [2, 1, 3, 5]).statistic)


def test_nothing_to_compare() -> None:
    found = stability(np.array([1.0]), np.array([np.nan]))
    assert (found.images, found.lost) == (0, 1)
    assert math.isnan(found.difference)
    same = stability(np.array([2.0, 2.0]), np.array([1.0, 3.0]))
    assert math.isnan(same.flipped)


def test_passes_are_matched_by_image() -> None:
    base = predictions([1.0, 2.0, 3.0, 5.0], [1.0, 2.0, 3.0, 4.0])
    turned = base.rows(np.array([3, 2, 0]))
    (row,) = compare_passes(base, {"flip": turned}, "valid_mean")["demo"].values()
    assert (row.images, row.lost, row.difference, row.srcc) == (3, 1, 0.0, 1.0)
    (table,) = consistency_tables({"demo": {"flip": row}})
    assert table.rows == (("mirrored left to right", "3", "1", "0.000", "1.000", "0.0%"),)


def test_changes_of_an_image() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (100, 200, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    assert (np.asarray(CHANGES["flip"](image)) == pixels[:, ::-1]).all()
    # 1 % of 200 is 2 columns on each side, of 100 one row.
    assert (np.asarray(CHANGES["crop"](image)) == pixels[1:99, 2:198]).all()
    assert CHANGES["resize"](image).size == (190, 95)
    again = CHANGES["jpeg"](image)
    assert (again.size, again.mode) == ((200, 100), "RGB")
    assert 0 < np.abs(np.asarray(again).astype(int) - pixels).mean() < 10


@pytest.mark.medium
def test_the_command_reports_and_resumes(run: Command, tmp_path: Path) -> None:  # noqa: F811
    arguments = (
        "consistency=true", "mode.samples=1", "mode.sampling.max_new_tokens=40", "logger=none",
        "dataset.max_images=8", "loader.workers=0", "statistics.bootstrap_draws=0",
        "report.plots=false", "report.worst=0", "report.published=false", "prompt=non_thinking",
        "run_dir=out", "hardware.threads=1",
    )  # fmt: skip
    found = run(main, *arguments)
    assert found.code == 0, found.err
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    (rows,) = summary["consistency"].values()
    assert list(rows) == ["flip", "crop", "resize", "jpeg", "wording", "seed"]
    assert all(row["images"] + row["lost"] <= 8 for row in rows.values())
    assert "pairs flipped" in (tmp_path / "out/report.md").read_text()
    # A pass that is missing is made again, the others are not.
    flipped = tmp_path / "out/consistency/flip/predictions.csv"
    kept = flipped.read_text()
    flipped.unlink()
    again = run(main, *arguments)
    assert again.code == 0, again.err
    assert again.out.count("already scored") == 6
    assert flipped.read_text() == kept


def test_what_cannot_be_asked_together(run: Command) -> None:  # noqa: F811
    found = run(main, "consistency=true", "perturbation=flip", "run_dir=out")
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert "consistency=true, perturbation=flip" in found.err
