"""The study of the real vision-language model: every line is accepted, runs are what they state."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from vqr1.cli.compose import compose_config, plain_values
from vqr1.cli.train import check_link
from vqr1.config import EvalConfig, validate
from vqr1.training.run_record import RunRecord, write_record

STUDY = Path(__file__).parents[2] / "experiments" / "real_vlm"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Loads a module of the study; other studies have modules of the same names."""
    monkeypatch.syspath_prepend(str(STUDY))
    names = ("lines", "study", "analyse", "ridge", "features")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


def place_of(study: Any, folder: Path) -> Any:
    return study.Place(folder / "data", folder / "work", folder / "results", ("logger=csv",))


@pytest.mark.medium
def test_the_overrides_of_every_line_are_accepted(module: Any, tmp_path: Path) -> None:
    lines, study = module("lines"), module("study")
    place = place_of(study, tmp_path)
    begun: dict[str, list[str]] = {}

    def start(self: Any, folder: Path, settings: Any, places: Any) -> None:
        begun[folder.name] = [text for text in (*settings, *places) if "init_from" not in text]

    study.Place.train = start
    for line in lines.LINES:
        place.line(line, line.seeds[0])
    checked: dict[str, Any] = {}
    for name in (lines.PLAIN, lines.THINKING):
        before = checked.get(lines.PLAIN)
        checked[name] = check_link([*begun[name], "run_dir=run"], before)
    for line in lines.LINES:
        name = f"{line.name}_seed{line.seeds[0]}"
        before = checked.get(line.start, checked.get(f"{line.start}_seed{line.seeds[0]}"))
        checked[name] = check_link([*begun[name], "run_dir=run"], before)
        assert checked[name]["max_steps"] == line.steps
        scoring = (*study.OUTSIDE, *study.FLOAT32, *line.scoring, "run_dir=run")
        validate(EvalConfig, plain_values(compose_config("eval", scoring)))


def test_a_run_of_other_settings_is_refused_and_a_finished_one_kept(
    module: Any, tmp_path: Path
) -> None:
    study = module("study")
    place, folder = place_of(study, tmp_path), tmp_path / "work" / "mse_seed1"
    ran: list[str] = []
    study.Place.run = lambda self, script, *arguments: ran.append(arguments[0])
    scored = tmp_path / "work" / "mse_seed1_inside"
    for finished, expected in ((True, []), (False, [f"resume={folder}"])):
        scored.mkdir(exist_ok=True, parents=True)
        write_record(folder, RunRecord("", "/", ("reward=mse", "seed=1"), {}, finished=finished))
        place.train(folder, ("seed=1", "reward=mse"), ("dataset.root=elsewhere",))
        assert ran == expected
        # What was scored of a run that is trained on is scored anew.
        assert scored.exists() == finished
    with pytest.raises(study.OtherSettingsError, match="begun without max_steps=100; move"):
        place.train(folder, ("seed=1", "max_steps=100"), ())


def test_a_failed_run_does_not_end_the_others(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = module("study")

    def fails(self: Any, script: str, *arguments: str) -> None:
        raise subprocess.CalledProcessError(1, script)

    study.Place.run, study.Place.prepare = fails, lambda self: None
    command = ["study.py", "--data", str(tmp_path), "--work", str(tmp_path), "--lines", "mse,sft"]
    monkeypatch.setattr(sys, "argv", [*command, "--steps", "2"])
    with pytest.raises(SystemExit, match="failed: mse_seed1, sft_seed1"):
        study.main()
    assert "-- sft_seed1" in capsys.readouterr().out


def test_the_share_between_reasonings_is_omega_squared(module: Any) -> None:
    rng = np.random.default_rng(0)
    groups = [rng.normal(mean, 1.0, size) for mean, size in ((0, 5), (1, 9), (2, 3), (5, 1))]
    mean, std, count = (
        np.array([float(measure(group)) for group in groups]) for measure in (np.mean, np.std, len)
    )
    # Of one text there is nothing to compare within.
    several = groups[:3]
    found = stats.f_oneway(*several).statistic
    between, total = len(several) - 1, sum(map(len, several))
    expected = between * (found - 1) / (between * (found - 1) + total)
    assert module("analyse").between_share(mean, std, count) == pytest.approx(expected)


def test_the_main_line_is_compared_on_the_same_images(module: Any, tmp_path: Path) -> None:
    analyse = module("analyse")
    rng = np.random.default_rng(1)
    mos = rng.normal(size=60)

    def table(name: str, noise: float, order: Any) -> Any:
        scores = mos + noise * np.random.default_rng(len(name)).normal(size=60)
        rows = [f"{n:02d}.jpg,{mos[n]},{scores[n]},.1" for n in order]
        path = tmp_path / f"{name}.csv"
        path.write_text("image,mos,score,std\n" + "\n".join(rows) + "\n")
        return path

    straight, shuffled = table("a", 0.5, range(60)), table("a", 0.5, rng.permutation(60))
    same = {"inside": analyse.measured(straight)}
    other = {"inside": analyse.measured(shuffled)}
    found = analyse.seeds_table({"fidelity_seed1": same, "sft_seed1": other})
    # The same scores in another order of rows: no difference in any draw.
    assert "| sft | 1 |" in found
    assert "+0.000 [+0.000, +0.000]" in found
    without = analyse.measured(straight, {"00.jpg", "01.jpg", "strange.jpg"})
    assert (without.scored, without.images) == (58, 58)
    scores = np.loadtxt(straight, delimiter=",", skiprows=3, usecols=(1, 2))
    assert without.srcc[0] == pytest.approx(stats.spearmanr(*scores.T).statistic)


@pytest.mark.parametrize("channels", [4, 40])
def test_the_ridges_penalty_is_chosen_by_the_error_of_leaving_one_out(
    module: Any, channels: int
) -> None:
    rng = np.random.default_rng(2)
    x, test = rng.normal(size=(25, channels)), rng.normal(size=(5, channels))
    y = x[:, 0] + rng.normal(size=25)

    def fitted(x: Any, y: Any, asked: Any, penalty: float) -> Any:
        weights = x - x.mean(axis=0)
        solved = np.linalg.solve(
            weights.T @ weights + penalty * np.eye(channels), weights.T @ (y - y.mean())
        )
        return (asked - x.mean(axis=0)) @ solved + y.mean()

    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-6
    x, asked = (x - mean) / std, (test - mean) / std
    errors = {}
    for power in np.arange(-4, 3, 0.5):
        penalty = 10.0**power * channels
        left = [
            y[row] - fitted(np.delete(x, row, 0), np.delete(y, row), x[row], penalty)
            for row in range(25)
        ]
        errors[penalty] = np.mean(np.square(left))
    found, error = module("ridge").ridge(x * std + mean, y, test)
    assert error == pytest.approx(min(errors.values()))
    best = min(errors, key=lambda penalty: errors[penalty])
    assert found == pytest.approx(fitted(x, y, asked, best))
