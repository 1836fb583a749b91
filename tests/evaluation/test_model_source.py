"""Finding the checkpoint of a run in a real MLflow store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from vqr1.config import LoggerConfig
from vqr1.config_evaluation import EvalModelConfig
from vqr1.errors import ModelError
from vqr1.evaluation.model_source import resolve_model
from vqr1.tracking.store import prepare_experiment

MODEL = EvalModelConfig(name="tiny", path=None, min_pixels=100, max_pixels=200)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoggerConfig, dict[str, str], Path]:
    """A store with two good runs, one without a checkpoint, and one whose folder is gone."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    experiment = prepare_experiment(uri, "vqr1")
    client = MlflowClient(uri)
    (folder / "export").mkdir()
    ids = {}
    for name, srcc, checkpoint in (
        ("low", 0.3, str(folder / "export")),
        ("high", 0.8, str(folder / "export")),
        ("bare", 0.9, None),
        ("gone", None, str(folder / "nowhere")),
    ):
        run = client.create_run(experiment, run_name=name)
        ids[name] = run.info.run_id
        client.log_param(ids[name], "model.max_pixels", 12544)
        client.log_param(ids[name], "prompt.name", "non_thinking")
        if srcc is not None:
            client.log_metric(ids[name], "val/srcc", srcc)
        if checkpoint is not None:
            client.set_tag(ids[name], "vqr1.checkpoint", checkpoint)
    return LoggerConfig(name="mlflow", tracking_uri=uri), ids, folder / "export"


def test_a_run_by_its_id(store: tuple[LoggerConfig, dict[str, str], Path]) -> None:
    logger, ids, folder = store
    found = resolve_model(replace(MODEL, run=ids["low"]), logger)
    assert found.config.path == str(folder)
    assert (found.config.min_pixels, found.config.max_pixels) == (100, 12544)
    assert (found.run_id, found.prompt, found.name) == (ids["low"], "non_thinking", "run low")


def test_the_best_run_has_a_checkpoint(store: tuple[LoggerConfig, dict[str, str], Path]) -> None:
    logger, ids, _ = store
    assert resolve_model(replace(MODEL, run="best"), logger).run_id == ids["high"]


def test_runs_that_cannot_be_used(store: tuple[LoggerConfig, dict[str, str], Path]) -> None:
    logger, ids, _ = store
    for run, message in (
        ("0123", "no such run in sqlite"),
        (ids["bare"], "no tag vqr1.checkpoint"),
        (ids["gone"], "is gone"),
    ):
        with pytest.raises(ModelError, match=message):
            resolve_model(replace(MODEL, run=run), logger)
    with pytest.raises(ModelError, match="no run of experiment 'vqr1' has both the metric 'x'"):
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
