"""Finding the checkpoint of a run in a real MLflow store."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tools.faults.mlflow_database import new_database
from vqr1.config import EvalModelConfig, LoggerConfig
from vqr1.errors import ModelError
from vqr1.evaluation.model_source import resolve_model
from vqr1.tracking.store import prepare_experiment

MODEL = EvalModelConfig(name="tiny", path=None, min_pixels=100, max_pixels=200)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoggerConfig, dict[str, str], Path]:
    """A store with two good runs and every kind that cannot be the best one."""
    folder = tmp_path_factory.mktemp("store")
    uri = new_database(folder / "mlflow.db")
    experiment = prepare_experiment(uri, "vqr1")
    client = MlflowClient(uri)
    (folder / "export").mkdir()
    ids = {}
    export = str(folder / "export")
    for name, last, best, checkpoint, status in (
        # What `low` exported is worse than `high`'s export; its last validation is better.
        ("low", 0.9, 0.3, export, "FINISHED"),
        ("high", 0.2, 0.8, export, "FINISHED"),
        ("bare", 0.9, 0.9, None, "FINISHED"),
        ("gone", 0.9, None, str(folder / "nowhere"), "FINISHED"),
        ("nan", 0.9, math.nan, export, "FINISHED"),
        ("failed", 0.9, 0.95, export, "FAILED"),
        ("running", 0.9, 0.95, export, "RUNNING"),
    ):
        run = client.create_run(experiment, run_name=name)
        ids[name] = run.info.run_id
        client.log_param(ids[name], "model.max_pixels", 12544)
        client.log_param(ids[name], "prompt.name", "non_thinking")
        client.log_metric(ids[name], "val/srcc", last)
        if name == "high":
            client.log_param(ids[name], "prompt.vision_id", False)
        if best is not None:
            client.log_metric(ids[name], "val/srcc_best", best)
        if checkpoint is not None:
            client.set_tag(ids[name], "vqr1.checkpoint", checkpoint)
        if status != "RUNNING":
            client.set_terminated(ids[name], status)
    return LoggerConfig(name="mlflow", tracking_uri=uri), ids, folder / "export"


@pytest.mark.medium
def test_a_run_by_its_id(store: tuple[LoggerConfig, dict[str, str], Path]) -> None:
    logger, ids, folder = store
    found = resolve_model(replace(MODEL, run=ids["low"]), logger)
    assert found.config.path == str(folder)
    assert (found.config.min_pixels, found.config.max_pixels) == (100, 12544)
    assert (found.run_id, found.prompt, found.name) == (ids["low"], "non_thinking", "run low")


def test_the_best_run_exported_the_best_checkpoint(
    store: tuple[LoggerConfig, dict[str, str], Path],
) -> None:
    logger, ids, _ = store
    assert resolve_model(replace(MODEL, run="best"), logger).run_id == ids["high"]


def test_a_run_from_before_the_key_was_trained_with_the_vision_id(
    store: tuple[LoggerConfig, dict[str, str], Path],
) -> None:
    logger, ids, _ = store
    assert resolve_model(replace(MODEL, run=ids["low"]), logger).vision_id is True
    assert resolve_model(replace(MODEL, run=ids["high"]), logger).vision_id is False
    # Without a run the checkpoint's own record counts: the tiny policy's is in its folder.
    assert resolve_model(MODEL, LoggerConfig(name="none")).vision_id is False


def test_runs_that_cannot_be_used(store: tuple[LoggerConfig, dict[str, str], Path]) -> None:
    logger, ids, _ = store
    for run, message in (
        ("0123", "no such run in sqlite"),
        (ids["bare"], "no tag vqr1.checkpoint"),
        (ids["gone"], "is gone"),
    ):
        with pytest.raises(ModelError, match=message):
            resolve_model(replace(MODEL, run=run), logger)
    with pytest.raises(ModelError, match=r"no finished run of experiment 'vqr1' has .* 'x_best'"):
        resolve_model(replace(MODEL, run="best", run_metric="x"), logger)
    with pytest.raises(ModelError, match=r"no experiment 'other' .* \(there are: .*vqr1"):
        resolve_model(replace(MODEL, run="best"), replace(logger, experiment="other"))


def test_no_store_is_made_by_looking_for_a_run(tmp_path: Path) -> None:
    logger = LoggerConfig(name="mlflow", tracking_uri=f"sqlite:///{tmp_path / 'none.db'}")
    with pytest.raises(ModelError, match="no MLflow database"):
        resolve_model(replace(MODEL, run="best"), logger)
    assert list(tmp_path.iterdir()) == []


def test_without_a_run_the_path_counts() -> None:
    logger = LoggerConfig(name="none")
    assert resolve_model(MODEL, logger).name == "tiny"
    assert resolve_model(replace(MODEL, path="folder"), logger).config.path == "folder"
