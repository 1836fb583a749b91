"""What earlier versions wrote is read under present names."""

from __future__ import annotations

from pathlib import Path

import pytest

from vqr1.cli.compose import compose_config, plain_values
from vqr1.config.nearest import ELSEWHERE, did_you_mean, near_keys
from vqr1.config.plain import flatten
from vqr1.config.renamed import (
    old_keys,
    present_key,
    present_name,
    present_names,
    renamed_keys,
    renamed_override,
    renamed_problem,
)
from vqr1.evaluation.prediction_file import PredictionStream, read_predictions
from vqr1.tracking.logged import logged_metrics


def test_keys_and_groups_of_keys() -> None:
    assert present_key("part") == "split"
    assert present_key("partial") == "partial"
    assert present_key("figures.level") == "statistics.level"
    assert present_key("loader.images_per_batch") == "loader.batch_size"
    assert renamed_override("++figures.curves=[logistic4]") == "++statistics.curves=[logistic4]"
    assert renamed_problem("loader.workers") is None
    old = {"callbacks.watchdogs.no_signal.limit": 1.0, "seed": 3}
    assert old_keys(old) == ["callbacks.watchdogs.no_signal.limit"]
    assert renamed_keys(old) == {"callbacks.watchdogs.zero_variance.limit": 1.0, "seed": 3}


def test_names_of_metrics_and_of_reports() -> None:
    assert present_name("train/zero_signal_rate") == "train/zero_variance_rate"
    assert present_name("zero_signal_rate/cause") == "zero_signal_rate/cause"
    report = {"sets": {"kadid": {"left_out": 3, "rows": [{"draws_left_out": 1}]}}}
    assert present_names(report) == {
        "sets": {"kadid": {"excluded": 3, "rows": [{"draws_excluded": 1}]}}
    }


def test_columns_of_a_metrics_file(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    file.write_text("step,train/well_formed_rate\n1,0.25\n2,0.5\n")
    name = "train/format_compliance_rate"
    assert list(logged_metrics(tmp_path)) == [(1, {name: 0.25}), (2, {name: 0.5})]


def test_a_file_of_predictions_is_read_and_continued(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    header = "dataset,image,index,sample,score,valid,well_formed,mos,reference,distortion,lost,text"
    rows = [
        "demo,a.png,0,0,3.5,1,1,3.0,,,,<answer>3.5</answer>",
        "demo,b.png,1,0,,0,0,2.0,,,,no answer",
    ]
    path.write_text("\n".join([header, *rows]) + "\n")
    (tmp_path / "predictions.csv.committed").write_text(str(path.stat().st_size))
    found = read_predictions(path)
    assert found.format_compliant.tolist() == [[True], [False]]
    stream = PredictionStream(path)
    stream.append(found)
    stream.close()
    lines = path.read_text().splitlines()
    assert lines[0] == header
    assert [line.split(",")[6] for line in lines[3:]] == ['"1"', '"0"']


def test_what_other_trainers_call_a_key_is_one_here() -> None:
    keys = flatten(plain_values(compose_config("train", ["run_dir=run"])))
    assert set(ELSEWHERE.values()) <= keys.keys()
    for name, key in ELSEWHERE.items():
        assert near_keys(name, keys) == [key]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("max_step", ["max_steps"]), ("optimizer.learning_rate", ["optimizer.lr"]),
        ("trainer.max_epochs", ["max_epochs"]), ("model.pth", ["model.path"]),
        ("logger.nme", ["logger.name"]), ("colour", []), ("a.b.c", []),
    ],
)  # fmt: skip
def test_keys_that_may_have_been_meant(given: str, meant: list[str]) -> None:
    keys = ["max_steps", "max_epochs", "optimizer.lr", "model.path", "logger.name", "seed"]
    assert near_keys(given, keys) == meant
    assert did_you_mean(["a", "b", "c"]) == "did you mean a, b or c?"
