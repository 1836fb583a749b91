from __future__ import annotations

import threading
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient

from tools.faults.mlflow_database import new_database
from vqr1.config import LoggerConfig
from vqr1.errors import ConfigError
from vqr1.tracking import open_run_log, run_log
from vqr1.tracking.delivery import Delivery
from vqr1.tracking.store import slug


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    new_database(tmp_path / "runs.db")
    return "sqlite:///runs.db"  # relative, as users write it


def status(database: str, run_id: str | None) -> str:
    assert run_id is not None
    return str(MlflowClient(database).get_run(run_id).info.status)


@pytest.mark.slow
def test_status_is_true_however_a_run_ends(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is tested is the status, not how long a busy machine takes to store it.
    monkeypatch.setattr(run_log, "INTERRUPTED_SECONDS", 120.0)
    config = LoggerConfig(name="mlflow", tracking_uri=database, wait_seconds=120.0)
    with open_run_log(config, tmp_path / "a", "a", trains=True) as log:
        log.metrics({"val/srcc": 0.5, "val/srcc/kadid+tid": 0.25}, 3)
        (logger,) = log.loggers
        # What Lightning does after each of its loops.
        logger.finalize("success")
        assert status(database, log.mlflow_run_id) == "RUNNING"
        log.config("a: 1\n", {"a": {"b": [0.9, 0.999], "c": "x" * 9000}, "d": None})
        log.table("answers/first", pd.DataFrame({"text": ["<think>", None]}))
    assert status(database, log.mlflow_run_id) == "FINISHED"
    run = MlflowClient(database).get_run(log.mlflow_run_id)
    assert run.data.params["a.b"] == "[0.9, 0.999]"
    assert set(run.data.params["a.c"]) == {"x"}
    assert run.data.metrics["val/srcc/kadid-tid"] == 0.25
    files = {file.path for file in MlflowClient(database).list_artifacts(log.mlflow_run_id)}
    assert {"config.yaml", "answers"} <= files

    for error, expected in ((ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"),
                            (SystemExit, "KILLED")):  # fmt: skip
        with pytest.raises(error), open_run_log(config, tmp_path / "b", "b") as log:
            raise error
        assert status(database, log.mlflow_run_id) == expected


def test_the_last_event_is_sent_however_the_threads_meet(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends between a batch that found nothing more and what the sender does then."""
    send_batch = Delivery.send_batch
    found_nothing, ended = threading.Event(), threading.Event()

    def last_batch(self: Delivery) -> bool:
        more = send_batch(self)
        if not more and self.delivered.run_id is not None and not ended.is_set():
            found_nothing.set()
            ended.wait(60)
        return more

    monkeypatch.setattr(Delivery, "send_batch", last_batch)
    join = threading.Thread.join

    def meanwhile(thread: threading.Thread, timeout: float | None = None) -> None:
        ended.set()
        join(thread, timeout)

    log = open_run_log(LoggerConfig(name="mlflow", tracking_uri=database), tmp_path / "a", "a")
    log.tags({"a": "b"})  # wakes the sender once more
    assert found_nothing.wait(60)
    monkeypatch.setattr(threading.Thread, "join", meanwhile)
    log.finish("FINISHED")
    assert status(database, log.mlflow_run_id) == "FINISHED"


def test_csv_keeps_every_metric(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "other.txt").write_text("kept")
    with open_run_log(LoggerConfig(name="csv"), tmp_path / "run", "name") as log:
        log.metrics({"train/kl": 0.5}, 1)
        log.metrics({"test/srcc_after": 0.25})
        assert log.mlflow_run_id is None
    table = pd.read_csv(tmp_path / "run" / "metrics.csv")
    assert table["train/kl"].dropna().tolist() == [0.5]
    assert table["test/srcc_after"].dropna().tolist() == [0.25]
    assert (tmp_path / "run" / "other.txt").read_text() == "kept"
    assert not [w for w in recwarn if "not empty" in str(w.message)]


def test_unusable_address(tmp_path: Path) -> None:
    config = LoggerConfig(name="mlflow", tracking_uri="nosuchscheme://x")
    with pytest.raises(ConfigError, match=r"logger\.tracking_uri=nosuchscheme"):
        open_run_log(config, tmp_path, "name")


def test_slug() -> None:
    assert slug("val/srcc/kadid+tid@x") == "val/srcc/kadid-tid-x"


@pytest.mark.medium
def test_images_of_a_series_become_a_grid_and_stay_single(database: str, tmp_path: Path) -> None:
    """A resumed run draws a step again; an image that was damaged on disk holds nothing up."""
    config = LoggerConfig(name="mlflow", tracking_uri=database, wait_seconds=120.0)
    figure = Figure(figsize=(1, 1))
    with open_run_log(config, tmp_path / "run", "series") as log:
        for step in (0, 5, 5):
            log.plot_of_step("scatter/val", figure, step)
        (tmp_path / "run" / "damaged.png").write_bytes(b"\x89PNG")
        assert log._tracking is not None
        log._tracking.image("damaged.png", "scatter/val", 6)
        run_id = log.mlflow_run_id
    assert status(database, run_id) == "FINISHED"
    assert run_id is not None
    client = MlflowClient(database)
    files = [file.path for file in client.list_artifacts(run_id, "images")]
    steps = [name.split("+")[2] for name in files if name.endswith(".png")]
    assert sorted(steps) == ["0", "5"]
    assert len(files) == 4
    assert client.get_run(run_id).data.tags["mlflow.loggedImages"] == "True"
