"""Finding the checkpoint of a run in a real MLflow store."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tools.faults.mlflow_database import new_database
from vqr1.config import EvalModelConfig, LoggerConfig
from vqr1.errors import ModelError, UserError
from vqr1.evaluation.model_source import resolve_model
from vqr1.tracking.store import prepare_experiment
from vqr1.training.run_lookup import find_run

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


def test_best_says_what_it_took(store: tuple[LoggerConfig, dict[str, str], Path]) -> None:
    logger, ids, _ = store
    note = resolve_model(replace(MODEL, run="best"), logger).note
    assert note is not None
    assert f"run high ({ids['high']}), which has the highest val/srcc_best (0.800) of the 2" in note
    assert resolve_model(replace(MODEL, run=ids["low"]), logger).note is None


def test_best_is_of_runs_on_the_same_data(tmp_path: Path) -> None:
    uri = new_database(tmp_path / "mlflow.db")
    logger = LoggerConfig(name="mlflow", tracking_uri=uri)
    experiment = prepare_experiment(uri, "vqr1")
    client = MlflowClient(uri)
    (tmp_path / "export").mkdir()
    ids = {}
    for data, value in (("koniq", 0.9), ("kadid", 0.5), ("kadid", 0.7), ("tid+kadid", 0.8)):
        run = client.create_run(experiment, run_name=f"{data} {value}")
        ids[data, value] = run.info.run_id
        client.log_param(run.info.run_id, "dataset", data)
        client.log_metric(run.info.run_id, "val/srcc_best", value)
        client.set_tag(run.info.run_id, "vqr1.checkpoint", str(tmp_path / "export"))
        client.set_terminated(run.info.run_id)
    for sets, best in (
        (["kadid"], ("kadid", 0.7)), (["koniq"], ("koniq", 0.9)),
        (["kadid", "tid"], ("tid+kadid", 0.8)),
    ):  # fmt: skip
        found = resolve_model(replace(MODEL, run="best"), logger, sets)
        assert found.run_id == ids[best]
        assert f"that trained on {'+'.join(sets)}" in str(found.note)
    with pytest.raises(ModelError, match="no run of experiment 'vqr1' trained on just livec") as no:
        resolve_model(replace(MODEL, run="best"), logger, ["livec"])
    assert f"kadid: {ids['kadid', 0.7]} (0.700)" in str(no.value)
    assert ids["kadid", 0.5] not in str(no.value)


@pytest.mark.parametrize(("own", "metric"), [(True, "mean_error"), (False, "rmse_logistic4")])
def test_the_best_of_a_metric_that_falls_with_quality(
    tmp_path: Path, own: bool, metric: str
) -> None:
    uri = new_database(tmp_path / "mlflow.db")
    experiment = prepare_experiment(uri, "vqr1")
    client = MlflowClient(uri)
    for value in (0.4, 0.2, 0.9):
        run = client.create_run(experiment, run_name=f"error {value}")
        if own:
            client.log_param(run.info.run_id, f"metrics.{metric}.higher_is_better", False)
        client.log_metric(run.info.run_id, f"val/{metric}_best", value)
        client.set_tag(run.info.run_id, "vqr1.checkpoint", str(tmp_path))
        client.set_terminated(run.info.run_id)
    model = replace(MODEL, run="best", run_metric=f"val/{metric}")
    found = resolve_model(model, LoggerConfig(name="mlflow", tracking_uri=uri))
    assert found.name == "run error 0.2"
    assert f"which has the lowest val/{metric}_best (0.200) of the 3" in str(found.note)


def test_a_run_by_its_folder(tmp_path: Path) -> None:
    logger = LoggerConfig(name="mlflow", tracking_uri="sqlite:////nowhere/none.db")
    (tmp_path / "run" / "export").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text(
        "model: {max_pixels: 12544}\nprompt: {name: non_thinking, vision_id: false}\n"
        "rollout: {sampling: {max_new_tokens: 77}}\n"
    )
    for given in ("run", "run/export"):
        found = resolve_model(replace(MODEL, run=str(tmp_path / given)), logger)
        assert found.config.path == str(tmp_path / "run" / "export")
        assert (found.config.min_pixels, found.config.max_pixels) == (100, 12544)
        assert (found.run_id, found.prompt, found.name) == (None, "non_thinking", "run run")
        assert (found.vision_id, found.rollout_tokens, found.of_run) == (False, 77, True)
    # A size that the command gives counts.
    model = replace(MODEL, run=str(tmp_path / "run"))
    found = resolve_model(model, logger, given={"model.max_pixels"})
    assert (found.config.min_pixels, found.config.max_pixels) == (100, 200)
    with pytest.raises(ModelError, match=r"model\.min_pixels=20000, model\.max_pixels=12544: one"):
        resolve_model(replace(model, min_pixels=20000), logger, given={"model.min_pixels"})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"no folder of a run .* a checkpoint is model\.path"):
        resolve_model(replace(MODEL, run=str(tmp_path / "other")), logger)


def test_a_store_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    logger = LoggerConfig(name="mlflow", tracking_uri="http://user:secret@127.0.0.1:9")
    for run in ("best", 32 * "a"):
        with pytest.raises(
            UserError, match=f"run={run}: the MLflow store .* does not answer"
        ) as no:
            resolve_model(replace(MODEL, run=run), logger)
        assert "\n" not in str(no.value)
        assert "secret" not in str(no.value)
    with pytest.raises(UserError, match=r"init_from=a+: the MLflow store .* does not answer"):
        find_run(32 * "a", logger.tracking_uri, "init_from")


def test_runs_that_cannot_be_used(store: tuple[LoggerConfig, dict[str, str], Path]) -> None:
    logger, ids, _ = store
    for run, message in (
        ("0123", "no such run in sqlite"),
        (ids["bare"], "no tag vqr1.checkpoint"),
        (ids["gone"], "is gone"),
    ):
        with pytest.raises(UserError, match=message):
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
