"""What a training prints and records at its end: rows by what they hold, counts, reasons."""

from __future__ import annotations

import io
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from omegaconf import OmegaConf
from rich.console import Console

from tests.cli.conftest import Command, run, write_kadid  # noqa: F401 - a fixture
from tests.cli.test_train import SMALL
from tests.evaluation.builders import predictions
from tests.evaluation.test_command import SMALL as EVALUATION
from vqr1.cli.compose import compose_config
from vqr1.cli.evaluate import main as evaluate
from vqr1.cli.export import main as export
from vqr1.cli.train import main
from vqr1.data.image_record import FILE
from vqr1.evaluation.predictions import Predictions
from vqr1.evaluation.trained_on import TrainedOn
from vqr1.policy.packaged import tiny_policy_folder
from vqr1.tracking import RunLog
from vqr1.training.callbacks.progress import shown_metrics
from vqr1.training.model_card import write_model_card
from vqr1.training.report import print_report, row_names, summary_values
from vqr1.training.result import ExportedStep, TestResult

pytestmark = pytest.mark.slow

MOS = [1.0, 2.0, 3.0, 4.0, 5.0, 1.5]


def result(
    before: Predictions, after: Predictions, exported: ExportedStep, draws: int = 0, **more: Any
) -> TestResult:
    found = TestResult.build(before, after, after, None, exported, Path("export"), draws)
    return TestResult(**{**vars(found), **more})


def printed(found: TestResult, folder: Path) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_report(console, found, 1.0, RunLog(folder))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_rows_are_named_by_what_chose_the_weights(tmp_path: Path) -> None:
    names = [
        (ExportedStep(None, 8, {}), ["before", "after, last step (exported)"]),
        (ExportedStep(8, 8, {}), ["before", "after, best and last step (exported)"]),
        (ExportedStep(4, 8, {}), ["before", "after, best step (exported)", "after, last step"]),
    ]
    rows = predictions(MOS, MOS)
    for exported, expected in names:
        text = printed(result(rows, rows, exported), tmp_path)
        found = [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")]
        assert found[: len(expected)] == expected
        assert [row_names(exported)[k] for k in ("before", "after")] == expected[:2]


def test_missing_scores_draws_and_correlations_are_given(tmp_path: Path) -> None:
    nan = math.nan
    before = predictions([2.0, 2.0, 2.0, 2.0, 2.0, nan], MOS)
    # Scores of two values: 2 / 2^6 = 3 % of the draws hold one of them only.
    after = predictions([1, 1, 2, 2, 2, 1], MOS)
    found = result(before, after, ExportedStep(None, 8, {}), draws=1000)
    lost = found.summary_after.metrics["srcc"].interval.lost  # type: ignore[union-attr]
    assert 10 < lost < 50
    text = " ".join(printed(found, tmp_path).split())
    assert "before: no SRCC: all predictions are equal" in text
    assert f"(exported): SRCC: {lost} of 1000 bootstrap draws have none and are excluded" in text
    assert "5 of 6 images, 1 without a score before or after training" in text
    values = summary_values(found, 1.0, RunLog(tmp_path))
    assert (values["test_images"], values["test_unscored_before"]) == (6, 1)
    assert (values["exported_step"], values["exported_by"]) == (8, "last step")
    assert found.metrics()["test/unscored_images_before"] == 1
    json.dumps(values, allow_nan=False)


def test_test_images_that_were_trained_on_are_given(tmp_path: Path) -> None:
    rows = predictions(MOS, MOS)
    exported = ExportedStep(4, 8, {"val/srcc": 0.5})
    clean = printed(result(rows, rows, exported, trained_on={"demo": TrainedOn(6, 0)}), tmp_path)
    assert "test images (never trained on)" in clean
    seen = result(rows, rows, exported, trained_on={"demo": TrainedOn(6, 2, renamed=2)})
    text = " ".join(printed(seen, tmp_path).split())
    assert "test images (2 of them trained on)" in text
    assert "demo: the model was trained on 2 of these 6 images" in text
    values = summary_values(seen, 1.0, RunLog(tmp_path))
    assert values["test_trained_on"]["demo"]["trained"] == 2


def test_the_validation_srcc_is_the_srcc_whatever_chose_the_step(tmp_path: Path) -> None:
    rows = predictions(MOS, MOS)
    chosen = {"val/plcc": 0.9, "val/srcc": 0.25, "val/images": 40.0, "val/unscored_images": 3.0}
    found = result(rows, rows, ExportedStep(4, 8, chosen))
    assert found.metrics()["val/srcc_best"] == 0.25
    assert found.metrics()["val/plcc_best"] == 0.9
    values = summary_values(found, 1.0, RunLog(tmp_path))
    assert (values["val_srcc_best"], values["val_images"], values["val_unscored_best"]) == (
        0.25, 40, 3,
    )  # fmt: skip
    without = TestResult.build(None, None, None, None, ExportedStep(4, 8, chosen), Path("x"), 0)
    assert without.headline == 0.25
    none = TestResult.build(None, None, None, None, ExportedStep(None, 8, {}), Path("x"), 0)
    assert math.isnan(none.headline)


def test_the_progress_line_counts_validation_images_without_a_score() -> None:
    trainer: Any = SimpleNamespace(
        callback_metrics={"val/srcc": 0.5, "val/images": 40.0, "val/unscored_images": 3.0}
    )
    assert shown_metrics(trainer) == "val SRCC 0.500  (3 of 40 val images without a score)"
    trainer.callback_metrics["val/unscored_images"] = 0.0
    assert shown_metrics(trainer) == "val SRCC 0.500"


def test_a_card_keeps_splits_apart(tmp_path: Path) -> None:
    composed = compose_config("train", ["dataset=demo", f"run_dir={tmp_path}"])
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(composed, resolve=True))
    found = result(
        predictions(MOS, MOS),
        predictions([*MOS[:5], math.nan], MOS),
        ExportedStep(4, 8, {"val/srcc": 0.732, "val/images": 40.0, "val/unscored_images": 3.0}),
        trained_on={"demo": TrainedOn(6, 2)},
    )
    values = summary_values(found, 1.0, RunLog(tmp_path))
    (tmp_path / "summary.json").write_text(json.dumps({**values, "test_srcc_after": 0.674}))
    shutil.copy(tiny_policy_folder() / "config.json", tmp_path)
    write_model_card(tmp_path, tmp_path)
    text = (tmp_path / "README.md").read_text()
    (model,) = yaml.safe_load(text.split("---")[1])["model-index"]
    by_split = {
        entry["dataset"]["split"]: (
            entry["dataset"]["name"],
            [(m["type"], m["value"]) for m in entry["metrics"] if m["type"] == "srcc"],
        )
        for entry in model["results"]
    }
    assert by_split == {
        "test": ("demo, test", [("srcc", 0.674)]),
        "validation": ("demo, validation", [("srcc", 0.732)]),
    }
    assert {r.dataset_split for r in ModelCard(text).data.eval_results} == {"test", "validation"}
    assert (
        "| SRCC | demo, test | 1.000 | 0.674 |  | 5 of 6 images (1 without a score), 2 of them "
        "trained on |"
    ) in text
    assert "| SRCC | demo, validation |  | 0.732 |  | 37 of 40 images (3 without a score) |" in text
    assert "| weights | step 4, the best by validation |" in text


def write_level_validation(root: Path) -> list[str]:
    """A set whose validation images have one MOS; the overrides that split it so."""
    write_kadid(root)
    lines = (root / "dmos.csv").read_text().splitlines()
    changed = [
        ",".join([*line.split(",")[:2], "3.00", "0.2"]) if line.startswith("I04") else line
        for line in lines
    ]
    (root / "dmos.csv").write_text("\n".join(changed) + "\n")
    # Three references of four images train, the fourth validates, two test.
    for part, references in {"train": [1, 2, 3], "val": [4], "test": [5, 6]}.items():
        (root / f"{part}.txt").write_text("".join(f"I{r:02d}.png\n" for r in references))
    return [
        "dataset=kadid",
        f"dataset.root={root}",
        "dataset.split.by=files",
        "dataset.split.files={train:train.txt,val:val.txt,test:test.txt}",
    ]


def test_a_run_without_a_defined_validation_and_the_images_it_knows(
    run: Command,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every validation of it is undefined; its evaluations recognise its training images."""
    monkeypatch.setenv("COLUMNS", "200")  # no cell is wrapped
    root = tmp_path / "kadid"
    data = write_level_validation(root)
    # Two test images are copies of training images.
    for level in (1, 2):
        copy = (root / f"images/I01_01_{level:02d}.png").read_bytes()
        (root / f"images/I05_01_{level:02d}.png").write_bytes(copy)
    outcome = run(main, *data, *SMALL, "run_dir=run", "logger=csv", "seed=5",
                  "callbacks.progress=false")  # fmt: skip
    assert outcome.code == 0, outcome.err
    printed = (outcome.out + outcome.err).replace("\n", " ")
    assert printed.count("was undefined in all 2 validations") == 1
    assert "all MOS are equal" in printed
    assert "after, last step (exported)" in outcome.out
    assert "best step" not in outcome.out
    assert "test images (2 of them trained on)" in outcome.out
    assert not list((tmp_path / "run/checkpoints").glob("best_*"))
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["val_srcc_best"] is None
    assert (summary["exported_step"], summary["exported_by"]) == (4, "last step")
    card = (tmp_path / "run/export/README.md").read_text()
    assert "| weights | step 4, the last one: no validation chose among the steps |" in card
    assert "validation |" not in card
    # 12 training and 4 validation images, and the same in the export.
    record = (tmp_path / "run" / FILE).read_text()
    assert len(record.splitlines()) == 17
    assert (tmp_path / "run/export" / FILE).read_text() == record

    assert run(export, "run=run", "checkpoint=last", "output=moved").code == 0
    (tmp_path / "run/export" / FILE).unlink()  # the run's own is found beside it
    for number, model in enumerate(("run/export", "moved")):
        found = run(evaluate, *EVALUATION, f"dataset.root={root}", "split=all",
                    f"model.path={model}", f"run_dir=eval{number}")  # fmt: skip
        assert found.code == 0, found.err
        values = json.loads((tmp_path / f"eval{number}/summary.json").read_text())["sets"]["kadid"]
        # 12 training images and 2 copies among 24.
        assert values["trained_on"] == {
            "images": 24, "trained": 14, "renamed": 2, "validation": 4, "name_only": 0,
            "near_identical": 0,
        }  # fmt: skip
        assert "kadid †" in found.out
        assert "trained on 14 of these 24 images" in " ".join(found.out.split())

    (tmp_path / "run" / FILE).unlink()  # a run from before
    found = run(evaluate, *EVALUATION, f"dataset.root={root}", "split=all",
                "model.path=run/export", "run_dir=eval2")  # fmt: skip
    assert f"left no {FILE}: how many of these images it was trained on is unknown" in " ".join(
        found.out.split()
    )
