"""The leaderboard against numbers computed by hand and by SciPy, and on a sweep's folder."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests.evaluation.builders import predictions
from vqr1.cli import summarize
from vqr1.cli.summarize import main
from vqr1.evaluation.predictions import Predictions
from vqr1.evaluation.set_metrics import MetricOptions
from vqr1.sweeps.folder import OUTCOME_FILE, Attempt, SweepFolder, SweepRecord, write_json
from vqr1.sweeps.jobs import SweepJob
from vqr1.sweeps.leaderboard import board_tables, build_boards, over_seeds
from vqr1.training.prediction_cache import write_predictions

MOS = [1.0, 2.0, 3.0, 4.0, 5.0]
SCORES = {
    "method=a": {"1": [1.0, 2.0, 3.0, 4.0, 5.0], "2": [2.0, 1.0, 3.0, 4.0, 5.0]},
    "method=b": {"1": [5.0, 4.0, 3.0, 2.0, 1.0], "2": [1.0, 3.0, 2.0, 5.0, 4.0]},
}


def of(scores: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, Predictions]]:
    return {
        name: {seed: predictions(np.array(row), np.array(MOS)) for seed, row in by_seed.items()}
        for name, by_seed in scores.items()
    }


def test_values_by_hand() -> None:
    (board,) = build_boards(of(SCORES), MetricOptions(draws=50))
    first, second = board.entries
    # SRCC = 1 - 6 sum d^2 / (n (n^2 - 1)) = 1 - sum d^2 / 20. Here PLCC is the same, since scores
    # and MOS are ranks. a: 1 and 1 - 2/20 = .9; b: 1 - 40/20 = -1 and 1 - 4/20 = .8.
    for metric in ("srcc", "plcc"):
        assert first.metrics[metric].value == pytest.approx((1 + 0.9) / 2)
        assert second.metrics[metric].value == pytest.approx((-1 + 0.8) / 2)
        assert second.differences[metric].value == pytest.approx(-0.1 - 0.95)
    assert (first.seeds, board.images, board.excluded, first.differences) == (2, 5, 0, {})
    # A run that scores two images less is named.
    few = {**SCORES, "method=c": {"1": [1.0, np.nan, 3.0, np.nan, 2.0], "2": [1.0, 2, 3, 4, 5]}}
    (board,) = build_boards(of(few), MetricOptions(draws=20))
    assert (board.images, board.excluded) == (3, 2)
    (table,) = board_tables([board], {}, MetricOptions(draws=20))
    assert any("no score of them: method=c, seed 1: 2 images." in note for note in table.notes)


def test_draws_over_seeds_are_means_of_chosen_rows() -> None:
    draws = np.array([[1.0, 10.0, 100.0], [2.0, 20.0, 200.0]])
    chosen = np.random.default_rng((3, 1)).integers(2, size=(3, 2))
    means = [(draws[chosen[d, 0], d] + draws[chosen[d, 1], d]) / 2 for d in range(3)]
    # Deviations from the mean of both seeds, 1.5, 15 and 150, times sqrt(2 / 1).
    by_hand = [m + 2**0.5 * (v - m) for m, v in zip((1.5, 15.0, 150.0), means, strict=True)]
    assert over_seeds(draws, 3) == pytest.approx(by_hand)
    # With one seed there is no choice.
    assert over_seeds(draws[:1], 3).tolist() == [1.0, 10.0, 100.0]


def test_the_variance_between_seeds_is_whole() -> None:
    # Values 0 and 1: a variance of 1/2 between seeds, of their mean 1/4.
    drawn = over_seeds(np.array([[0.0], [1.0]]).repeat(20_000, axis=1), 0)
    assert drawn.var() == pytest.approx(0.25, rel=0.05)


def test_intervals_hold_images_and_seeds() -> None:
    rng = np.random.default_rng(0)
    mos = rng.uniform(1, 5, 200)
    near, far = (mos + level * rng.normal(size=200) for level in (0.2, 3.0))
    both = {"a": {"1": predictions(near, mos), "2": predictions(far, mos)}}
    (board,) = build_boards({**both, "b": both["a"]}, MetricOptions(draws=400))
    first, second = board.entries
    found = first.metrics["srcc"]
    values = [stats.spearmanr(scores, mos).statistic for scores in (near, far)]
    assert found.value == pytest.approx(np.mean(values))
    # A draw may hold either seed twice, so that the interval reaches from the one to the other.
    assert found.interval.low < min(values) + 0.1
    assert found.interval.high > max(values) - 0.05
    # The same predictions in the same draws: no difference, and no doubt of it.
    gain = second.differences["srcc"]
    assert (gain.value, gain.interval.low, gain.interval.high) == (0.0, 0.0, 0.0)


def parent_of(sweep: SweepFolder, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A sweep's parent run without a store; its children have logged nothing."""
    tags = {"vqr1.sweep_dir": str(sweep.path), "vqr1.command": "train.py -m"}
    data = SimpleNamespace(tags=tags, params={"method": "a,b", "seed": "1,2"})
    logged: list[str] = []
    client = SimpleNamespace(
        get_run=lambda _: SimpleNamespace(data=data),
        log_artifact=lambda _run, path, _folder: logged.append(Path(path).name),
        log_metric=lambda *_: None,
    )
    parent = SimpleNamespace(client=client, run_id="p", logged=logged, run=client.get_run("p"))
    opened = SimpleNamespace(open=lambda *_: parent)
    monkeypatch.setattr(summarize, "ParentRun", opened)
    monkeypatch.setattr(summarize, "read_children", lambda *_: [])
    return parent


def test_a_sweep_over_methods_gets_a_leaderboard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = SweepFolder(tmp_path / "sweep")
    jobs = {
        f"job{number}": {"method": name.partition("=")[2], "seed": seed}
        for number, (name, seed) in enumerate((n, s) for n in SCORES for s in ("1", "2"))
    }
    sweep.write(SweepRecord("k", "train.py -m", {}, {"method": "a,b", "seed": "1,2"}, jobs))
    for number, (name, swept) in enumerate(jobs.items()):
        attempt = Attempt(number, sweep.path / str(number), SweepJob(name, (), swept))
        sweep.prepare(attempt)
        (attempt.folder / "checkpoints").mkdir()
        row = np.array(SCORES[f"method={swept['method']}"][swept["seed"]])
        write_predictions(attempt.folder / "checkpoints", 8, predictions(row, np.array(MOS)))
        seconds = {"seconds": 10.0 + number, "test_srcc_after": 0.5}
        (attempt.folder / "summary.json").write_text(json.dumps(seconds))
        (attempt.folder / "config.yaml").write_text(
            "hardware: {devices: 2, nodes: 1, accelerator: gpu}\n"
        )
        write_json(attempt.folder / OUTCOME_FILE, {"status": "FINISHED"})
    assert main([f"folder={sweep.path}"]) == 0
    printed = capsys.readouterr().out
    values = json.loads((sweep.path / "leaderboard.json").read_text())
    found = values["sets"]["demo"]["methods"]
    assert found["method=a"]["srcc"][0] == pytest.approx(0.95)
    assert found["method=b"]["difference"]["plcc"][0] == pytest.approx(-1.05)
    # Mean seconds of the two runs, on two processes: 2 (10 + 11) / 2 = 21, 2 (12 + 13) / 2 = 25.
    costs = {name: cost["seconds"] for name, cost in values["costs"].items()}
    assert costs == {"method=a": 21.0, "method=b": 25.0}
    assert "21 GPU s" in printed
    assert "isotonic regression on the test images, which is never done here" in printed
    assert (sweep.path / "leaderboard_demo.csv").is_file()
    # By the parent in MLflow: from the same folder, where it is on this machine.
    parent = parent_of(sweep, monkeypatch)
    assert main(["parent=p", f"output={tmp_path / 'summary'}"]) == 0
    assert json.loads((tmp_path / "summary/leaderboard.json").read_text()) == values
    assert "leaderboard.md" in parent.logged
    # Where no output is named, nothing is written into the folder that the command is typed in.
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (sweep.path / "sweep_summary.json").unlink()
    assert main(["parent=p"]) == 0
    assert (sweep.path / "sweep_summary.json").is_file()
    assert not list(Path().iterdir())
    parent.run.data.tags["vqr1.sweep_dir"] = str(tmp_path / "elsewhere")
    assert main(["parent=p"]) == 0
    assert Path("outputs/summarize/p/sweep_summary.json").is_file()
    assert [path.name for path in Path().iterdir()] == ["outputs"]
    assert main(["parent=p", f"output={tmp_path / 'other'}"]) == 0
    assert "elsewhere is not on this machine" in capsys.readouterr().out
    for number in range(4):
        (sweep.path / str(number) / OUTCOME_FILE).unlink()
    assert main([f"folder={sweep.path}"]) == 0
    assert "no leaderboard: compare: no job" in capsys.readouterr().out


def test_seeds_are_paired_by_their_value() -> None:
    rng = np.random.default_rng(1)
    mos = rng.uniform(1, 5, 60)
    near, far = (predictions(mos + w * rng.normal(size=60), mos) for w in (0.3, 3.0))
    options = MetricOptions(draws=200)
    # The same predictions of the same seeds, in another order: no difference in any draw.
    same = {"a": {"1": near, "2": far}, "b": {"2": far, "1": near}}
    gain = build_boards(same, options)[0].entries[1].differences["srcc"]
    assert (gain.value, gain.interval.low, gain.interval.high) == (0.0, 0.0, 0.0)
    # Of other seeds, or of more, each method draws its own.
    other = {"a": {"1": near, "2": far}, "b": {"3": near, "4": far}}
    (board,) = build_boards(other, options)
    assert [entry.paired for entry in board.entries] == [True, False]
    gain = board.entries[1].differences["srcc"]
    assert gain.value == 0.0
    assert gain.interval.low < -0.1 < 0.1 < gain.interval.high
    (table,) = board_tables([board], {}, options)
    assert sum(note.startswith("b: trained with other seeds") for note in table.notes) == 1
    (table,) = board_tables(build_boards(same, options), {}, options)
    assert not any("other seeds" in note for note in table.notes)


def test_what_the_first_method_lacks_is_the_reason_of_every_difference() -> None:
    flat = {"method=a": {"1": [3.0] * 5}, "method=b": {"1": [1.0, 2.0, 3.0, 4.0, 5.0]}}
    (board,) = build_boards(of(flat), MetricOptions(draws=20))
    first, second = board.entries
    assert second.metrics["srcc"].reason is None
    assert (
        second.differences["srcc"].reason
        == first.metrics["srcc"].reason
        == "all predictions are equal"
    )


def test_a_published_plcc_stands_in_the_column_of_what_it_is_of() -> None:
    predicted = predictions(np.array(MOS), np.array(MOS), dataset="koniq")
    boards = build_boards({"a": {"1": predicted}}, MetricOptions(draws=0))
    (table,) = board_tables(boards, {}, MetricOptions(draws=0))
    places = [table.columns.index(f"PLCC, {kind}") for kind in ("raw", "fitted", "other")]
    found = {row[0]: tuple(row[place] for place in places) for row in table.rows}
    assert found["a"][0] == "1.000"
    assert found["MR-IQA (KonIQ-10k)"] == ("0.949", "", "")
    assert found["DeQA (KonIQ-10k)"] == ("", "0.953", "")
    assert found["Q-Insight (KonIQ-10k)"] == ("", "", "0.933 (not stated)")
    assert found["Zoom-IQA, after isotonic regression (KonIQ-10k)"] == (
        "", "", "0.938 (isotonic fit)",
    )  # fmt: skip


def test_published_numbers_stand_beside() -> None:
    predicted = predictions(np.array(MOS), np.array(MOS), dataset="spaq")
    boards = build_boards({"a": {"1": predicted}}, MetricOptions(draws=0))
    (table,) = board_tables(boards, {}, MetricOptions(draws=0))
    published = [row for row in table.rows if row[1] == "published"]
    assert any("Q-Align" in row[0] and "KonIQ-10k" in row[0] for row in published)
    assert table.rows[0][2] == "1.000"
