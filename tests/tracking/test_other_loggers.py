"""TensorBoard and wandb beside and without MLflow: what they hold, resumed, ended, refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.faults.mlflow_database import new_database
from vqr1.config import LoggerConfig
from vqr1.errors import ConfigError
from vqr1.sweeps.sweep_log import SweepLog
from vqr1.tracking import open_run_log, other_loggers
from vqr1.tracking.other_loggers import WANDB_FOLDER, WANDB_ID, logger_problems


def scalars(folder: Path, key: str) -> list[tuple[int, float]]:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs vqr1[tensorboard]"
    )
    events = accumulator.EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in events.Scalars(key)]


@pytest.mark.medium
def test_tensorboard_beside_csv(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs vqr1[tensorboard]")
    config = LoggerConfig(name="csv+tensorboard")
    with open_run_log(config, tmp_path, "run") as log:
        log.metrics({"val/srcc": 0.5}, 3)
        for logger in log.loggers:
            logger.finalize("success")  # as Lightning does after each of its loops
        log.config("a: 1\n", {"a": {"b": 1}, "api_key": "secret"})
        log.metrics({"val/srcc": 0.75}, 4)
    folder = tmp_path / "tensorboard"
    assert scalars(folder, "val/srcc") == [(3, 0.5), (4, 0.75)]
    assert "a.b: '1'" in (folder / "hparams.yaml").read_text()
    assert "secret" not in (folder / "hparams.yaml").read_text()
    assert (tmp_path / "metrics.csv").read_text() == "step,val/srcc\n3,0.5\n4,0.75\n"
    # A resumed run continues there; a new one in the same folder begins anew.
    with open_run_log(config, tmp_path, "run", resume=True) as log:
        log.metrics({"val/srcc": 1.0}, 5)
    assert scalars(folder, "val/srcc") == [(3, 0.5), (4, 0.75), (5, 1.0)]
    with open_run_log(config, tmp_path, "run") as log:
        log.metrics({"val/srcc": 0.25}, 0)
    assert scalars(folder, "val/srcc") == [(0, 0.25)]


@pytest.mark.slow
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="needs vqr1[wandb]")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = LoggerConfig(name="wandb", offline=True, tags={"who": "me"}, experiment="vqr1")
    with open_run_log(config, tmp_path, "name") as log:
        log.metrics({"val/srcc": 0.5}, 3)
        log.config("a: 1\n", {"a": 1})
        assert wandb.run.name == "name"
        assert wandb.run.config.as_dict() == {"tags": {"who": "me"}, "a": "1"}
    assert wandb.run is None
    first = (tmp_path / WANDB_FOLDER / WANDB_ID).read_text()

    def failing() -> None:
        with open_run_log(config, tmp_path, "name", resume=True):
            assert wandb.run.id == first
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        failing()
    assert wandb.run is None
    with open_run_log(config, tmp_path, "name"):
        assert wandb.run.id != first
    assert len(list((tmp_path / WANDB_FOLDER).glob("offline-run-*"))) == 3


@pytest.mark.slow
def test_wandb_without_a_login_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="needs vqr1[wandb]")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(ConfigError, match=r"^logger=wandb: .*logger\.offline=true$"):
        open_run_log(LoggerConfig(name="wandb", wait_seconds=5.0), tmp_path, "name")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_loggers, "find_spec", lambda name: None)
    config = LoggerConfig(name="mlflow+tensorboard+wandb")
    assert logger_problems(config) == [
        "logger=tensorboard: tensorboard is not installed; pip install 'vqr1[tensorboard]'",
        "logger=wandb: wandb is not installed; pip install 'vqr1[wandb]'",
    ]
    with pytest.raises(ConfigError, match="not installed"):
        open_run_log(config, tmp_path, "run")
    # No MLflow run was begun for nothing.
    assert list(tmp_path.iterdir()) == []
    assert logger_problems(LoggerConfig(name="mlflow+csv")) == []


@pytest.mark.medium
def test_a_sweep_has_a_parent_where_mlflow_is_among_its_loggers(tmp_path: Path) -> None:
    uri = new_database(tmp_path / "runs.db")
    for name, expected in (("csv+tensorboard", False), ("tensorboard+mlflow", True)):
        config = LoggerConfig(name=name, tracking_uri=uri)
        found = SweepLog.create(config, tmp_path, "train.py -m", {"seed": "1,2"}, "a: 1\n")
        assert (found is not None) is expected
        if found is not None:
            found.close("FINISHED", print)


@pytest.mark.medium
def test_an_unusable_mlflow_closes_the_others(tmp_path: Path) -> None:
    (tmp_path / "no.db").write_text("no database, but more than a hundred bytes" * 9)
    config = LoggerConfig(name="mlflow+csv", tracking_uri=f"sqlite:///{tmp_path}/no.db")
    with pytest.raises(ConfigError, match="name an MLflow database"):
        open_run_log(config, tmp_path / "run", "run")


@pytest.mark.medium
def test_mlflow_is_the_first_of_several(tmp_path: Path) -> None:
    config = LoggerConfig(name="csv+mlflow", tracking_uri=new_database(tmp_path / "runs.db"))
    with open_run_log(config, tmp_path / "run", "run", trains=True) as log:
        log.metrics({"loss": 2.0}, 1)
        assert [logger.name for logger in log.loggers] == ["mlflow", ""]
    assert log.mlflow_run_id is not None
    journal = (tmp_path / "run" / "tracking" / "journal.jsonl").read_text().splitlines()
    assert {"loss": 2.0} in [json.loads(line).get("values") for line in journal]
    assert (tmp_path / "run" / "metrics.csv").read_text() == "loss,step\n2.0,1\n"
