"""The tracking server away, killed, locked: the run continues, and nothing is lost or doubled."""

from __future__ import annotations

import errno
import json
import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from filelock import Timeout
from mlflow import MlflowClient

from tests.support.mlflow_server import MlflowServer
from tests.support.small_disk import file_limit
from tools.faults.mlflow_database import new_database
from tools.faults.slow_answers import SlowAnswers
from vqr1.cli.sync import main as sync
from vqr1.config import LoggerConfig
from vqr1.errors import ConfigError
from vqr1.tracking import RunLog, open_run_log
from vqr1.tracking.delivery import Delivery
from vqr1.tracking.events import Metrics, encode, read_events
from vqr1.tracking.journal import Journal, journal_file
from vqr1.tracking.sender import Sender, sender_lock


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    found = MlflowServer(tmp_path_factory.mktemp("server"))
    yield found
    found.kill()


def log_steps(log: RunLog, steps: range) -> None:
    for step in steps:
        log.metrics({"train/loss": step / 8, "train/kl": math.nan if step == 2 else 0.5}, step)


def steps(client: MlflowClient, run_id: str | None, key: str) -> list[int]:
    assert run_id is not None
    return sorted(metric.step for metric in client.get_metric_history(run_id, key))


def mark(run_dir: Path) -> dict[str, object]:
    found = json.loads((run_dir / "tracking" / "delivered.json").read_text())
    assert isinstance(found, dict)
    return found


def impatient(log: RunLog) -> None:
    assert log._tracking is not None
    log._tracking.wait_seconds = 1


def log_while_the_server_dies(config: LoggerConfig, server: MlflowServer, folder: Path) -> None:
    server.start()
    with open_run_log(config, folder, "known") as log:
        assert log.mlflow_run_id is not None
        log_steps(log, range(3))
        server.kill()
        log_steps(log, range(3, 6))
        log.config("lr: 1\n", {"lr": 1})
        log.table("answers/first", pd.DataFrame({"text": ["a", None]}))
        impatient(log)


def log_without_a_server(config: LoggerConfig, folder: Path) -> None:
    with open_run_log(config, folder, "name+of/run") as log:
        impatient(log)
        assert log.mlflow_run_id is None
        log_steps(log, range(4))


def forget_what_was_sent(run_dir: Path) -> None:
    """As if no answer had come back, and with other times: MLflow itself would take them anew."""
    path = journal_file(run_dir)
    events = [event for _, event in read_events(path) if event is not None]
    for event in events:
        if isinstance(event, Metrics):
            object.__setattr__(event, "time", event.time + 1)
    path.write_bytes(b"".join(encode(event) for event in events))
    (path.parent / "delivered.json").unlink()


@pytest.mark.slow
def test_server_killed_and_started_again(
    server: MlflowServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = LoggerConfig(
        name="mlflow", tracking_uri=server.uri, wait_seconds=60, tags={"mlflow.parentRunId": "up"}
    )
    known, unknown = tmp_path / "known", tmp_path / "unknown"
    log_while_the_server_dies(config, server, known)
    assert "events of this run are not delivered" in caplog.text
    assert f"vqr1 sync {known}" in caplog.text
    caplog.clear()
    log_without_a_server(config, unknown)
    assert "cannot be reached" in caplog.text
    required = LoggerConfig(name="mlflow", tracking_uri=server.uri, require=True, wait_seconds=1)
    with pytest.raises(ConfigError, match=r"logger\.tracking_uri=http.*logger\.require=false"):
        open_run_log(required, tmp_path / "required", "required")
    assert journal_file(tmp_path / "required").read_bytes() == b""
    assert sync([str(known), str(unknown), "--seconds", "0"]) == 1

    server.start()
    assert sync([str(known), str(unknown)]) == 0
    client = MlflowClient(server.uri)
    ids = [str(mark(folder)["run_id"]) for folder in (known, unknown)]
    for key in ("train/loss", "train/kl"):
        assert steps(client, ids[0], key) == [0, 1, 2, 3, 4, 5]
        assert steps(client, ids[1], key) == [0, 1, 2, 3]
    loss = client.get_metric_history(ids[0], "train/loss")
    assert sorted((m.step, m.value) for m in loss) == [(step, step / 8) for step in range(6)]
    (unreal,) = (m for m in client.get_metric_history(ids[0], "train/kl") if m.step == 2)
    assert math.isnan(unreal.value)
    runs = [client.get_run(run_id) for run_id in ids]
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    assert [run.info.run_name for run in runs] == ["known", "name-of/run"]
    assert [run.data.tags["mlflow.parentRunId"] for run in runs] == ["up", "up"]
    assert runs[0].data.params == {"lr": "1"}
    shown = json.loads(runs[0].data.tags["mlflow.loggedArtifacts"])
    assert shown == [{"path": "answers/first.json", "type": "table"}]
    files = {file.path for file in client.list_artifacts(ids[0], "answers")}
    assert files == {"answers/first.json", "answers/first.csv"}
    table = json.loads(
        Path(client.download_artifacts(ids[0], "answers/first.json", str(tmp_path))).read_text()
    )
    assert table == {"columns": ["text"], "data": [["a"], [None]]}

    forget_what_was_sent(known)
    assert sync([str(known)]) == 0
    assert sync([str(known), "--restart"]) == 0
    assert steps(client, ids[0], "train/loss") == [0, 1, 2, 3, 4, 5]
    names = Counter(r.info.run_name for r in client.search_runs([runs[0].info.experiment_id]))
    assert names == {"known": 1, "name-of/run": 1}


@pytest.mark.slow
def test_server_that_answers_late(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does what it is asked, but the client has given up by then: each event is sent again."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    if not server.running:
        server.start()
    with SlowAnswers(server.port) as proxy:
        config = LoggerConfig(name="mlflow", tracking_uri=proxy.uri, wait_seconds=120)
        with open_run_log(config, tmp_path / "late", "late") as log:
            run_id = log.mlflow_run_id
            assert run_id is not None
            monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
            proxy.slow()
            log_steps(log, range(3))  # returns although nobody answers
            wait_for_failure(log, "failed")
            log_steps(log, range(3, 5))
            assert proxy.held > 0
            # A run that starts while it is slow waits for one attempt only.
            with open_run_log(config, tmp_path / "second", "second") as second:
                assert second.mlflow_run_id is None
                log_steps(second, range(2))
                proxy.fast()
    client = MlflowClient(server.uri)
    for key in ("train/loss", "train/kl"):
        assert steps(client, run_id, key) == [0, 1, 2, 3, 4]
        assert steps(client, str(mark(tmp_path / "second")["run_id"]), key) == [0, 1]
    experiment = client.get_run(run_id).info.experiment_id
    names = Counter(run.info.run_name for run in client.search_runs([experiment]))
    assert (names["late"], names["second"]) == (1, 1)


def wait_for_failure(log: RunLog, printed: str) -> None:
    """Until an attempt to send has met this; the sender's reason is empty after a success."""
    assert log._tracking is not None
    end = time.monotonic() + 120
    while printed not in log._tracking.sender._reason:
        assert time.monotonic() < end, log._tracking.sender._reason
        time.sleep(0.02)


@pytest.mark.slow
def test_database_locked_by_another_process(tmp_path: Path) -> None:
    database = tmp_path / "runs.db"
    uri = new_database(database)
    config = LoggerConfig(name="mlflow", tracking_uri=uri, wait_seconds=90)
    holder = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); " \
             "c.execute('BEGIN EXCLUSIVE'); print(flush=True); sys.stdin.read()"  # fmt: skip
    with open_run_log(config, tmp_path / "run", "run") as log:
        run_id = log.mlflow_run_id
        assert run_id is not None
        with subprocess.Popen(
            [sys.executable, "-c", holder, str(database)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as other:
            assert other.stdout is not None
            other.stdout.readline()
            log_steps(log, range(2))  # returns although nobody can write
            wait_for_failure(log, "locked")  # longer than MLflow itself waits
            log_steps(log, range(2, 3))
            journal = list(read_events(journal_file(tmp_path / "run")))
            assert mark(tmp_path / "run")["offset"] < journal[-1][0]
            # A sync beside a run leaves its journal to it.
            assert sync([str(tmp_path / "run")]) == 2
            other.communicate()
    client = MlflowClient(uri)
    assert steps(client, run_id, "train/loss") == [0, 1, 2]
    assert client.get_run(run_id).info.status == "FINISHED"


@pytest.mark.slow
def test_killed_run_continues(tmp_path: Path) -> None:
    """The continuation does the last steps again: each stays as it was logged first."""
    killed = (
        "import os, signal, sys; from pathlib import Path; from vqr1.config import LoggerConfig;"
        "from vqr1.tracking import open_run_log;"
        "config = LoggerConfig(name='mlflow', tracking_uri=sys.argv[1], wait_seconds=300);"
        "log = open_run_log(config, Path(sys.argv[2]), 'killed', {'a': '1'});"
        "log.config('lr: 1', {'lr': 1});"
        "[log.metrics({'train/loss': s / 8}, s) for s in range(5)];"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    folder = tmp_path / "killed"
    uri = new_database(tmp_path / "runs.db")
    config = LoggerConfig(name="mlflow", tracking_uri=uri)
    subprocess.run([sys.executable, "-c", killed, uri, str(folder)], check=False)
    first = str(mark(folder)["run_id"])
    client = MlflowClient(uri)
    assert client.get_run(first).info.status == "RUNNING"
    with journal_file(folder).open("ab") as stream:
        stream.write(b'{"kind":"metrics","step":5,"ti')  # cut off while it was written
    with open_run_log(config, folder, "other", resume=True) as log:
        assert log.mlflow_run_id == first
        log.config("lr: 2\nnew: 1", {"lr": 2, "new": 1})
        for step in range(3, 8):
            log.metrics({"train/loss": step / 4 + 100 * (step < 5)}, step)
    run = client.get_run(first)
    assert (run.info.status, run.data.params) == ("FINISHED", {"lr": "1", "new": "1"})
    history = client.get_metric_history(first, "train/loss")
    found = sorted((metric.step, metric.value) for metric in history)
    # Steps 0 to 4 as the killed process logged them (s / 8), 5 to 7 by its continuation (s / 4).
    assert found == [(0, 0.0), (1, 0.125), (2, 0.25), (3, 0.375), (4, 0.5),
                     (5, 1.25), (6, 1.5), (7, 1.75)]  # fmt: skip


def test_full_disk_delays_lines_and_loses_none(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.start("vqr1", {}, "sqlite:///x.db")
    # The file may grow by 20 bytes more: the next line is cut in its middle.
    with file_limit(journal.size + 20):
        for step in range(3):
            journal.metrics({"a": step}, step)
        assert journal.waiting() == 3
    journal.metrics({"a": 3}, 3)
    assert journal.waiting() == 0
    journal.close()
    events = [event for _, event in read_events(journal.path)]
    assert [e.step for e in events if isinstance(e, Metrics)] == [0, 1, 2, 3]
    assert None not in events


def test_damaged_and_foreign_lines(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    folder = tmp_path / "run"
    journal = Journal(folder)
    uri = new_database(tmp_path / "runs.db")
    journal.start("vqr1", {}, uri)
    journal.file("../secret")
    journal.file("gone.txt")
    journal.close()
    with journal.path.open("ab") as stream:
        stream.write(b"\xff\xfe\n{}\n[1]\n" + b"[" * 100_000 + b"\n" + b'{"kind":"exec"}\n')
    journal = Journal(folder)
    journal.metrics({"a b": 1.0, "c\N{SNOWMAN}": math.inf}, 1)
    journal.close()
    assert sync([str(folder)]) == 0
    found = mark(folder)
    assert found["refused"] == 2
    run = MlflowClient(uri).get_run(str(found["run_id"]))
    assert run.data.metrics.keys() == {"a b", "c-"}


def test_a_file_that_cannot_be_stored_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    uri = new_database(tmp_path / "runs.db")
    MlflowClient(uri).create_experiment("vqr1", artifact_location="s3://bucket/runs")
    monkeypatch.setitem(sys.modules, "boto3", None)  # as where it is not installed
    folder = tmp_path / "run"
    journal = Journal(folder)
    journal.start("vqr1", {}, uri)
    (folder / "a.txt").write_text("x")
    (folder / "private.txt").write_text("x")
    journal.file("a.txt")
    journal.file("private.txt")
    journal.metrics({"a": 1.0}, 1)
    journal.close()
    opened = Path.open

    def denied(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == "private.txt":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", denied)
    assert sync([str(folder)]) == 0
    found = mark(folder)
    assert found["refused"] == 2
    assert MlflowClient(uri).get_run(str(found["run_id"])).data.metrics == {"a": 1.0}
    assert "boto3" in caplog.messages[0]
    assert f"sync --restart {folder}" in caplog.messages[0]
    assert "private.txt: it cannot be read (Permission denied)" in caplog.messages[1]


@pytest.mark.parametrize(
    ("error", "printed"),
    [
        (RuntimeError("odd"), "odd"),
        (Timeout("runs.db.lock"), "The file lock 'runs.db.lock' could not be acquired."),
        (None, "another process is sending this run's journal"),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_keeps_the_sender_from_sending_is_its_reason(
    error: Exception | None, printed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    since = journal.start("vqr1", {}, "sqlite:///x.db")
    journal.close()

    def fails(_: Delivery) -> bool:
        assert error is not None
        raise error

    monkeypatch.setattr(Delivery, "send_batch", fails)
    with nullcontext() if error is not None else sender_lock(tmp_path):
        sender = Sender(tmp_path, "sqlite:///x.db", since)
        assert sender.wait_for_run(60) == printed
        assert sender.close(0).reason == printed


def test_an_address_whose_package_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for driver in ("psycopg", "psycopg2"):
        monkeypatch.setitem(sys.modules, driver, None)
    journal = Journal(tmp_path)
    journal.start("vqr1", {}, "postgresql://localhost/runs")
    journal.close()
    assert sync([str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: logger.tracking_uri=postgresql://localhost/runs: ")
    assert line.endswith("; install the package that this kind of database needs")


def test_sync_names_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sync([str(tmp_path), str(tmp_path / "nowhere")]) == 2
    printed = capsys.readouterr().err.splitlines()
    assert printed == [
        f"error: {tmp_path}: no tracking/journal.jsonl in it; name the folder of a run",
        f"error: {tmp_path / 'nowhere'}: no tracking/journal.jsonl in it; name the folder of a run",
    ]
    for secret in ("https://user:a/b@example.org/mlflow", "postgresql://db/runs?password=a/b"):
        journal = Journal(tmp_path)
        journal.start("vqr1", {}, secret)
        journal.close()
        assert b"a/b" not in journal.path.read_bytes()
        assert sync([str(tmp_path)]) == 2
        assert "give the address with --tracking-uri" in capsys.readouterr().err
        journal.path.unlink()


def test_a_journal_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.close()
    assert journal.path.stat().st_mode & 0o777 == 0o600
