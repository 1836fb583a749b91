"""`target=pairs` of an evaluation: accuracy and draws by brute force, report, command."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.cli.conftest import Command, run  # noqa: F401
from tests.evaluation.builders import predictions
from vqr1.cli.evaluate import main
from vqr1.evaluation.metric_options import MetricOptions
from vqr1.evaluation.metrics import PREFERENCE_ACCURACY, MetricInputs, metrics_of
from vqr1.evaluation.predictions import Predictions
from vqr1.evaluation.preferences import preference_report, preference_tables
from vqr1.evaluation.report import Evaluation
from vqr1.evaluation.set_metrics import set_metrics
from vqr1.evaluation.summary import summarise
from vqr1.iqa.bootstrap import Units, resample_counts
from vqr1.iqa.preferences import StatedPairs, TieRule

NAN = math.nan


def stated(rows: list[tuple[int, int, float, float, float]], rule: TieRule) -> StatedPairs:
    columns = np.array(rows, dtype=float).T
    return StatedPairs.gather(*columns[:2].astype(np.int64), *columns[2:], rule=rule)


def six(rule: TieRule | None = None) -> Predictions:
    """Rows 10 to 15 of a table, two answers each, row 13 without a score."""
    scores = [[1.0, 2.0], [2.0, 4.0], [3.0, 3.0], [NAN, NAN], [5.0, 4.0], [1.5, 1.5]]
    found = replace(predictions(scores, [1, 2, 3, 4, 5, 6]), index=np.arange(10, 16))
    rows = [(10, 11, 0, 3, 0), (12, 11, 1, 0, 0), (14, 10, 2, 1, 0), (15, 14, 1, 0, 0),
            (11, 14, 0, 0, 2), (13, 10, 1, 0, 0), (12, 3, 1, 0, 0)]  # fmt: skip
    return replace(found, pairs={"demo": stated(rows, rule or TieRule())})


def test_the_report_by_hand() -> None:
    # Mean scores 1.5, 3, 3, none, 4.5, 1.5. Pairs: 10-11 right; 12-11 predicted equal: 1/2;
    # 14-10 right; 15-14 wrong; 11-14 a human tie, not predicted equal: 1/2.
    found = preference_report(six(), "valid_mean")
    assert found is not None
    assert (found.pairs, found.votes, found.outside, found.unscored) == (5, 10, 1, 1)
    assert (found.human_ties, found.predicted_ties, found.counted) == (1, 1, 5)
    # Votes: 3 of 3; half of 1; 2 of 3; 0 of 1; half of 2.
    assert found.agreement == pytest.approx((3 + 0.5 + 2 + 0 + 1) / 10)
    assert found.ceiling == pytest.approx((3 + 1 + 2 + 1 + 1) / 10)
    # 10 < 11, 10 < 14: 11-14 is a tie, so no triple has three majorities.
    assert (found.triples, found.cycles) == (0, 0)
    assert found.likelihood is not None
    assert found.likelihood.pairs == 5
    assert found.likelihood.published < found.likelihood.fitted < 0
    accuracy = metrics_of({}, "pairs")
    summary = summarise(six(), draws=0, metrics=accuracy)
    assert summary.metrics["preference_accuracy"].value == pytest.approx(3 / 5)
    exclude = six(TieRule(threshold=1.5, human="exclude"))
    # Within 1.5 of each other: all but 14-10 and 15-14; 10-11 and 12-11 are half right then.
    value = summarise(exclude, draws=0, metrics=accuracy).metrics["preference_accuracy"].value
    assert value == pytest.approx((0.5 + 0.5 + 1 + 0) / 4)
    one_answer = replace(six(), scores=six().scores[:, :1], valid=six().valid[:, :1])
    single = preference_report(one_answer, "valid_mean")
    assert single is not None
    assert single.values()["likelihood"] is None
    assert preference_report(replace(six(), pairs={}), "valid_mean") is None


def test_draws_against_pairs_that_are_repeated() -> None:
    rng = np.random.default_rng(1)
    n = 9
    rows = [(i, j, *rng.integers(0, 3, 2), 1) for i, j in itertools.combinations(range(n), 2)]
    pairs = stated(rows[::2], TieRule(threshold=0.3))
    inputs = MetricInputs(rng.normal(size=n), np.zeros(n), np.zeros(n), pairs)
    found = PREFERENCE_ACCURACY.draws(inputs, 20, seed=4)
    known = {(int(i), int(j)): k for k, (i, j) in enumerate(zip(pairs.first, pairs.second,
                                                               strict=True))}  # fmt: skip
    expected = []
    for counts in np.concatenate(list(resample_counts(Units.of(n, None), 20, 4))):
        drawn = np.repeat(np.arange(n), counts.astype(int))
        credits = []
        for a, b in itertools.combinations(drawn, 2):
            k = known.get((int(a), int(b)))
            if k is None:
                continue
            d = inputs.scores[a] - inputs.scores[b]
            predicted = 0 if abs(d) <= 0.3 else np.sign(d)
            credits.append(1 - abs(predicted - pairs.majority[k]) / 2)
        expected.append(np.mean(credits) if credits else NAN)
    np.testing.assert_allclose(found, expected)


def test_interval_cycles_and_table() -> None:
    rng = np.random.default_rng(2)
    scores = rng.normal(size=40)
    rows = [(i, j, float(scores[i] + rng.normal() > scores[j]), 0, 0)
            for i, j in itertools.combinations(range(40), 2)]  # fmt: skip
    rows = [(i, j, w, 1 - w, 0) for i, j, w, _, _ in rows]
    found = replace(predictions(scores, scores + 1), pairs={"demo": stated(rows, TieRule())})
    options = MetricOptions(curves=(), draws=200, metrics=metrics_of({}, "pairs"))
    metrics = set_metrics(found, options)
    accuracy = metrics.metrics["preference_accuracy"]
    assert accuracy.value in accuracy.interval
    assert 0.6 < accuracy.interval.low < accuracy.interval.high < 0.95
    assert metrics.preferences is not None
    assert metrics.preferences.triples == 40 * 39 * 38 // 6
    assert 0 < metrics.preferences.cycles < metrics.preferences.triples / 4
    table = preference_tables(Evaluation("caption", (metrics,), options))[0]
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row["pairs"] == "780/780"
    assert row["accuracy"].startswith(f"{accuracy.value:.3f} [")
    assert row["cycles"] == f"{metrics.preferences.cycles}/9880"
    assert preference_tables(Evaluation("", (set_metrics(replace(found, pairs={}), options),),
                                        options)) == []  # fmt: skip


def write_set(root: Path) -> None:
    """Thirty images by number, their MOS, all pairs, and scores that turn two neighbours around."""
    root.mkdir()
    (root / "mos.csv").write_text("".join(f"{n},{n / 10}\n" for n in range(1, 31)))
    pairs = [f"{i},{j},{2 if i < j else 1}" for i, j in itertools.combinations(range(1, 31), 2)]
    (root / "pairs.csv").write_text("\n".join([*pairs, "30,1,1"]))
    scores = {**{n: n for n in range(1, 31)}, 5: 6, 6: 5}
    lines = [f"img{n:03d}.png,{score}" for n, score in scores.items()]
    (root / "scores.csv").write_text("\n".join(["image,score", *lines]))


OPTIONS = ("logger=none", "report.plots=false", "report.worst=0", "statistics.bootstrap_draws=100",
           "statistics.curves=[]",
           "target=pairs", "labels=dataset", "split=all", "dataset.pairs.first=0",
           "dataset.pairs.second=1", "dataset.pairs.preference=2", "dataset.pairs.codes=one_two",
           "dataset.pairs.name_pattern='img{:03}.png'")  # fmt: skip


@pytest.mark.medium
def test_a_file_of_predictions_on_pairs(run: Command, tmp_path: Path) -> None:  # noqa: F811
    write_set(tmp_path / "set")
    file = f"predictions={tmp_path / 'set' / 'scores.csv'}"
    own = (
        file, "dataset=csv", f"dataset.root={tmp_path / 'set'}", "dataset.label_file=mos.csv",
        "dataset.columns.image=0", "dataset.columns.mos=1",
        "dataset.columns.name_pattern='img{:03}.png'",
    )  # fmt: skip
    found = run(main, *own, *OPTIONS, "dataset.pairs.file=pairs.csv", "run_dir=both")
    assert found.code == 0, found.err
    # One pair of 435 is wrong; "30 over 1" agrees with the pair that is there: a second vote.
    assert f"{434 / 435:.3f} [" in found.out
    values = json.loads(Path("both/metrics.json").read_text())["sets"]["csv"]
    assert values["preference_accuracy"]["value"] == pytest.approx(434 / 435)
    assert values["preference_accuracy"]["low"] < 434 / 435
    assert (values["pairs"]["votes"], values["pairs"]["cycles"]) == (436, 0)
    assert values["pairs"]["triples"] == 30 * 29 * 28 // 6
    assert values["srcc"]["value"] == pytest.approx(1 - 6 * 2 / (30 * 899))
    report = Path("both/report.md").read_text()
    assert "stated pairs" in report
    assert pd.read_csv("both/tables/pairs.csv")["human ties"].tolist() == [0]
    # The same pairs alone: MOS are fitted to them.
    only = run(
        main, file, "dataset=pairs", f"dataset.root={tmp_path / 'set'}", *OPTIONS, "run_dir=only"
    )
    assert only.code == 0, only.err
    alone = json.loads(Path("only/metrics.json").read_text())["sets"]["pairs"]
    assert alone["preference_accuracy"] == values["preference_accuracy"] | {
        key: alone["preference_accuracy"][key] for key in ("low", "high")
    }
    assert alone["srcc"]["value"] == pytest.approx(values["srcc"]["value"])
    assert "MOS are scores fitted to the pairs within the evaluated split" in alone["warnings"][0]
    # Without target=pairs nothing is added.
    plain = run(main, *own, *OPTIONS, "dataset.pairs.file=pairs.csv", "target=mos", "run_dir=mos")
    assert plain.code == 0
    assert "pair accuracy" not in plain.out
    without = json.loads(Path("mos/metrics.json").read_text())["sets"]["csv"]
    assert without == {k: v for k, v in values.items() if k not in ("pairs", "preference_accuracy")}
    for arguments, message in (
        ((*own, *OPTIONS, "run_dir=x"), "target=pairs, dataset.pairs.file=None: name the file"),
        ((*own, *OPTIONS, "labels=file", "run_dir=x"), "target=pairs, labels=file: pairs are"),
        (("compare=[a,b]", "target=pairs", "run_dir=x"), "target=pairs, compare: finished"),
    ):
        refused = run(main, *arguments)
        assert refused.code == 2
        assert message in refused.err
