"""`train.py` from end to end on a small set in KADID's format."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from tests.cli.conftest import Command
from tools.faults.small_set import write_kadid
from vqr1.cli.export import main as export_run
from vqr1.cli.train import main
from vqr1.config import ModelConfig
from vqr1.inference.tested_scores import FEWEST, read_tested_scores
from vqr1.policy.packaged import tiny_policy_folder
from vqr1.policy.training_prompt import trained_vision_id
from vqr1.report_page.pages import page_of
from vqr1.report_page.sections import charts_of
from vqr1.training.model_card import read_run_config

pytestmark = pytest.mark.medium

SMALL = (
    "max_steps=4", "loader.batch_size=4", "loader.workers=0", "validation.every_steps=2",
    "validation.samples=2", "validation.bootstrap_draws=50", "grpo.group_size=3",
)  # fmt: skip


def on(root: Path) -> list[str]:
    return [
        "dataset=kadid", f"dataset.root={root}", "dataset.split.by=reference",
        "dataset.split.fractions=[0.5,0.25,0.25]", *SMALL,
    ]  # fmt: skip


def metric_history(run: Path) -> pd.DataFrame:
    table = pd.read_csv(run / "metrics.csv")
    kept = [c for c in table.columns if "time/" not in c and "memory" not in c]
    return table[kept]


@pytest.mark.slow
def test_run_leaves_everything_it_promises(run: Command, kadid_root: Path, tmp_path: Path) -> None:
    outcome = run(main, *on(kadid_root), "run_dir=run", "seed=5", "+logger.tags.study=test",
                  "optimizer.ema_decay=0.5", "logger.wait_seconds=600")  # fmt: skip
    assert outcome.code == 0, outcome.err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert set(summary) >= {
        "test_srcc_before", "test_srcc_after", "test_srcc_gain_interval", "seconds",
        "mlflow_run_id", "checkpoint", "test_srcc_average",
    }  # fmt: skip
    weights = [load_file(tmp_path / f"run/{name}/model.safetensors")["lm_head.weight"]
               for name in ("export", "export_average")]  # fmt: skip
    assert not torch.equal(*weights)
    # The run directory is the last line, so that a script can pick it up.
    assert outcome.out.strip().splitlines()[-1] == "run"
    assert summary["mlflow_run_id"] in outcome.out
    assert "mlflow ui --host 127.0.0.1" in outcome.out

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    logged = client.get_run(summary["mlflow_run_id"])
    assert logged.info.status == "FINISHED"
    assert logged.data.params["grpo.group_size"] == "3"
    # Part of the record, whatever decided it: here that of the tiny policy.
    assert logged.data.params["prompt.vision_id"] == "False"
    assert read_run_config(tmp_path / "run")["prompt"]["vision_id"] is False
    for name in ("export", "export_average"):
        folder = ModelConfig(
            name="x", path=str(tmp_path / "run" / name), min_pixels=1, max_pixels=1
        )  # fmt: skip
        assert trained_vision_id(folder) is False
    assert logged.data.params["optimizer.lr"] == "0.0002"
    assert logged.data.tags["study"] == "test"
    assert logged.data.tags["vqr1.checkpoint"] == summary["checkpoint"]
    for name in (
        "train/reward/total", "train/reward/fidelity", "train/kl", "train/invalid_rate",
        "train/zero_variance_rate", "train/response_length", "val/srcc", "val/srcc_greedy",
        "test/srcc_after",
    ):  # fmt: skip
        assert name in logged.data.metrics, name
    steps = [m.step for m in client.get_metric_history(logged.info.run_id, "train/kl")]
    assert len(steps) == 4
    artifacts = {file.path for file in client.list_artifacts(logged.info.run_id)}
    assert {"config.yaml", "summary.json", "answers", "scatter", "report.html", "predictions",
            "environment.json"} <= artifacts  # fmt: skip
    page = page_of(tmp_path / "run")
    assert {section.title for section in page.shown()} >= {
        "Results", "Curves", "Predictions of the test images", "Answers before and after",
        "Configuration", "Environment",
    }  # fmt: skip
    assert len(charts_of(page)) >= 8
    assert "<dt>Test SRCC</dt>" in (tmp_path / "run/report.html").read_text()
    # What a score of the exported model means.
    tested = read_tested_scores(summary["checkpoint"], "thinking")
    scored = summary["test_images"] - summary["test_unscored_after"]
    assert (tested.images if tested else 0) == (scored if scored >= FEWEST else 0)

    # The exported checkpoint is a complete folder that plain transformers loads.
    exported = Path(summary["checkpoint"])
    AutoProcessor.from_pretrained(exported)
    assert "| training sets | kadid |" in (exported / "README.md").read_text()
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(exported)
    base = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        tiny_policy_folder(), dtype=torch.float32
    )
    assert model.dtype == torch.float32
    changed = [
        not torch.equal(a, b) for a, b in zip(model.parameters(), base.parameters(), strict=True)
    ]
    best = torch.load(max((tmp_path / "run/checkpoints").glob("best_*.ckpt")), weights_only=True)
    assert any(changed) or best["global_step"] == 0
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, best["state_dict"][f"model.{name}"])
    assert (tmp_path / "run/checkpoints/step_00000004.ckpt").is_file()

    # Its checkpoints can be exported by themselves, as those of a run that was stopped.
    last = torch.load(tmp_path / "run/checkpoints/step_00000004.ckpt", weights_only=True)
    again = run(export_run, "run=run", "checkpoint=last", "output=out")
    assert again.code == 0, again.err
    weights = load_file(tmp_path / "out/model.safetensors")["lm_head.weight"]
    torch.testing.assert_close(weights, last["state_dict"]["model.lm_head.weight"])


@pytest.mark.slow
def test_same_seed_gives_identical_metrics(run: Command, tmp_path: Path) -> None:
    root = write_kadid(tmp_path / "kadid")
    arguments = [*on(root), "logger=csv", "validation.test=false", "callbacks.progress=false"]
    for name in ("one", "two"):
        assert run(main, *arguments, f"run_dir={name}", "seed=7").code == 0
    assert run(main, *arguments, "run_dir=three", "seed=8").code == 0
    one, two, three = (metric_history(tmp_path / name) for name in ("one", "two", "three"))
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert not one["train/loss"].equals(three["train/loss"])
    summary = json.loads((tmp_path / "one" / "summary.json").read_text())
    assert summary["mlflow_run_id"] is None
    assert summary["test_srcc_after"] is None
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.slow
def test_mixture_trains_and_reports_each_set(run: Command, tmp_path: Path) -> None:
    first, second = write_kadid(tmp_path / "a"), write_kadid(tmp_path / "b", references=8)
    parts = [
        argument
        for name, root in (("kadid", first), ("demo", second))
        for argument in (
            f"dataset.parts.{name}.root={root}",
            f"dataset.parts.{name}.split.by=reference",
            f"dataset.parts.{name}.split.fractions=[0.5,0.25,0.25]",
        )
    ]
    outcome = run(main, "dataset=kadid+demo", *parts, *SMALL, "logger=csv", "run_dir=run")
    assert outcome.code == 0, outcome.err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert set(summary["test_by_dataset"]) == {"kadid", "demo"}
    history = pd.read_csv(tmp_path / "run" / "metrics.csv")
    assert {"val/srcc/kadid", "val/srcc/demo"} <= set(history.columns)
    values = [v for v in history["val/srcc"].dropna() if math.isfinite(v)]
    assert all(-1 <= value <= 1 for value in values)
