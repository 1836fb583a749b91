from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient

from tools.faults.mlflow_database import new_database
from vqr1.config import LoggerConfig
from vqr1.errors import ConfigError
from vqr1.tracking import open_run_log, run_log
from vqr1.tracking.delivery import Delivered, Delivery, write_mark
from vqr1.tracking.journal import Journal
from vqr1.tracking.store import slug


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    # Relative, as users write it; MLflow keeps what it has opened by this address.
    new_database(tmp_path / f"{tmp_path.name}.db")
    return f"sqlite:///{tmp_path.name}.db"


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


@pytest.mark.medium
def test_a_resumed_run_keeps_its_store_and_takes_its_whole_log_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        new_database(folder / "mlflow.db")
    run_dir = first / "outputs" / "run"
    config = LoggerConfig(name="mlflow", wait_seconds=120.0)

    def log(config: LoggerConfig, step: int, resume: bool = True) -> str | None:
        with open_run_log(config, run_dir, "run", resume=resume) as log:
            log.metrics({"train/loss": step / 8}, step)
        return log.mlflow_run_id

    def found(folder: Path, run_id: str | None) -> list[int]:
        assert run_id is not None
        client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
        return sorted(m.step for m in client.get_metric_history(run_id, "train/loss"))

    monkeypatch.chdir(first)
    run = log(config, 0, resume=False)
    # The default store is that of the working directory, but the run has one already.
    monkeypatch.chdir(second)
    assert log(config, 1) == run
    assert found(first, run) == [0, 1]
    # Another store on the command line gets all of it, from the first step on.
    other = replace(config, tracking_uri="sqlite:///mlflow.db")
    moved = log(other, 2)
    assert moved != run
    assert found(second, moved) == [0, 1, 2]
    # That is where it goes from then on.
    monkeypatch.chdir(first)
    assert log(config, 3) == moved
    assert found(second, moved) == [0, 1, 2, 3]
    assert not Delivery(run_dir).left()
    # A folder that was moved with its database finds the run in it.
    third = tmp_path / "third"
    third.mkdir()
    (second / "mlflow.db").rename(third / "mlflow.db")
    monkeypatch.chdir(third)
    assert log(config, 4) == moved
    assert not (second / "mlflow.db").exists()
    assert found(third, moved) == [0, 1, 2, 3, 4]
    # Of two copies it is that of the working directory.
    fourth = tmp_path / "fourth"
    shutil.copytree(third, fourth)
    monkeypatch.chdir(fourth)
    assert log(config, 5) == moved
    assert found(fourth, moved) == [0, 1, 2, 3, 4, 5]
    assert found(third, moved) == [0, 1, 2, 3, 4]


def test_a_store_whose_password_is_not_kept_must_be_given_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.start("vqr1", {}, "http://me:word@server:1")
    journal.close()
    with pytest.raises(ConfigError, match=r"logger.tracking_uri: missing; .*password is not kept"):
        open_run_log(LoggerConfig(name="mlflow"), tmp_path, "name", resume=True)


def test_a_resumed_run_that_requires_its_server_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "http://127.0.0.1:9"
    journal = Journal(tmp_path)
    journal.start("vqr1", {}, address)
    size = journal.size
    journal.close()
    write_mark(journal.path, Delivered(size, "0" * 32, store=address))

    def fails(_: Delivery) -> bool:
        raise OSError("nobody answers")

    monkeypatch.setattr(Delivery, "send_batch", fails)
    config = LoggerConfig(name="mlflow", tracking_uri=address, wait_seconds=0.2, require=True)
    with pytest.raises(ConfigError, match="nobody answers"):
        open_run_log(config, tmp_path, "name", resume=True)
    # Nothing came of it: the journal is as it was.
    assert journal.path.stat().st_size == size
