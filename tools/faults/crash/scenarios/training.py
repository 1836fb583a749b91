"""What a training writes: checkpoints, its logs beside them, its export, its end."""

from __future__ import annotations

import csv
import io
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file

from tools.faults.crash.explore import Known, LostError, Note, Scenario
from vqr1.durable import ASIDE, remove_asides
from vqr1.policy.export import written_aside
from vqr1.tracking.events import Metrics, Start, Status, read_events
from vqr1.tracking.journal import Journal, journal_file
from vqr1.tracking.loggers import CsvMetricsLogger, JournalLogger, save_logs
from vqr1.tracking.run_log import RunLog, Tracking
from vqr1.tracking.sender import Sender, Undelivered
from vqr1.training.checkpoint_files import (
    newest_intact,
    read_checkpoint,
    remove_checkpoint,
    step_name,
    step_of,
    write_checkpoint,
)
from vqr1.training.resume import Run
from vqr1.training.run_record import RunRecord, read_record, write_record

STEPS = 6


class NoSender:
    """A server that is away."""

    run_id = None

    def notify(self) -> None:
        """Nobody listens."""

    def close(self, seconds: float) -> Undelivered:
        """Nothing was sent."""
        return Undelivered(0, 0, "away")


class Checkpoints(Scenario):
    """Two checkpoints, of which the first is deleted and the second written once more."""

    name = "save two checkpoints, delete one, replace one"
    begins = (None,)

    def prepare(self, folder: Path) -> None:
        """A run directory."""
        (folder / "run").mkdir()

    def act(self, folder: Path, note: Note) -> None:
        """See the class."""
        place = folder / "run" / "checkpoints"
        for step, value in ((1, "first"), (2, "second")):
            write_checkpoint(_content(value), place / step_name("step", step))
            note(value)
        remove_checkpoint(place / step_name("step", 1))
        write_checkpoint(_content("second, again"), place / step_name("step", 2))
        note("second, again")

    def recover(self, folder: Path, known: Known) -> None:
        """The newest intact one is read; what was begun is removed."""
        place = folder / "run" / "checkpoints"
        remove_asides(place)
        path = newest_intact(place, "step")
        known.check(None if path is None else read_checkpoint(path)["value"])
        left = [file.name for file in place.glob(f".*{ASIDE}")]
        if left:
            raise LostError(f"left over: {left}")


def _content(value: str) -> dict[str, Any]:
    return {"value": value, "weights": torch.arange(30.0)}


class SteppedLogs(Scenario):
    """Metrics at every step and a checkpoint after every second one, as a run saves them."""

    name = "a step's metrics, then its checkpoint"
    begins = (0,)

    def prepare(self, folder: Path) -> None:
        """A run directory."""
        (folder / "run").mkdir()

    def act(self, folder: Path, note: Note) -> None:
        """See the class."""
        self._train(folder / "run", 0, note)

    def _train(self, run: Path, since: int, note: Note) -> None:
        journal = Journal(run)
        if not since or journal.resume() is None:
            journal.start("experiment", {"mlflow.runName": "name"}, "http://away")
        loggers = (
            JournalLogger(journal, cast(Sender, NoSender())),
            CsvMetricsLogger(run, resume=since > 0),
        )
        for step in range(since + 1, STEPS + 1):
            for logger in loggers:
                logger.log_metrics({"loss": step / 8}, step)
                logger.save()
            if step % 2 == 0:
                save_logs(loggers)
                place = run / "checkpoints" / step_name("step", step)
                write_checkpoint({"value": step}, place)
                note(step)
        journal.close()

    def recover(self, folder: Path, known: Known) -> None:
        """The run is resumed: every metric is there once at every step, of one MLflow run."""
        run = folder / "run"
        path = newest_intact(run / "checkpoints", "step")
        step = 0 if path is None else step_of(path)
        known.check(step)
        self._train(run, step, lambda value: None)
        events = [event for _, event in read_events(journal_file(run))]
        starts = [number for number, event in enumerate(events) if isinstance(event, Start)]
        if step and len(starts) != 1:
            raise LostError(f"{len(starts)} MLflow runs were begun")
        steps = [e.step for e in events[starts[-1] :] if isinstance(e, Metrics)]
        rows = csv.DictReader(io.StringIO((run / "metrics.csv").read_text()))
        for found in (steps, [int(row["step"]) for row in rows]):
            if Counter(found) != Counter(range(1, STEPS + 1)):
                raise LostError(f"metrics at steps {found}")


class FinishedRun(Scenario):
    """The end of a training: export, summary, the log's end, and the record of it."""

    name = "finish a run"
    begins = ("unfinished",)

    def prepare(self, folder: Path) -> None:
        """A run that has trained."""
        write_record(folder / "run", _record())
        journal = Journal(folder / "run")
        journal.start("experiment", {}, "http://away")
        journal.close()

    def act(self, folder: Path, note: Note) -> None:
        """See the class."""
        self._finish(folder / "run")
        note("finished")

    def _finish(self, run: Path) -> None:
        journal = Journal(run)
        journal.resume()
        with RunLog(
            run, (), Tracking(journal, cast(Sender, NoSender()), "http://away", 0.0)
        ) as log:
            journal.metrics({"test/srcc": 0.5}, STEPS)
            write_export(run / "export", 1.0)
            log.summary({"srcc": 0.5})
        Run(run, _record()).finish()

    def recover(self, folder: Path, known: Known) -> None:
        """A finished run has all of it; another one is resumed and finishes."""
        run = folder / "run"
        record = read_record(run)
        if record is None:
            raise LostError("there is no run")
        known.check("finished" if record.finished else "unfinished")
        if not record.finished:
            self._finish(run)
        if read_export(run / "export") != 1.0:
            raise LostError("the export is not that of the run")
        if (run / "summary.json").read_text() != '{\n  "srcc": 0.5\n}\n':
            raise LostError("the summary is not that of the run")
        events = [event for _, event in read_events(journal_file(run))]
        ends = [event for event in events if isinstance(event, Status)]
        metrics = [event for event in events if isinstance(event, Metrics)]
        if not ends or ends[-1].status != "FINISHED" or len(metrics) != 1:
            raise LostError(f"the journal holds {events}")
        if {path.name for path in run.iterdir() if path.is_dir()} != {"export", "tracking"}:
            raise LostError(f"left over: {sorted(path.name for path in run.iterdir())}")


def _record() -> RunRecord:
    return RunRecord("2026-01-01T00:00:00.000+00:00", "/", (), {"seed": 1})


class Export(Scenario):
    """An export that takes the place of an earlier one of the same run."""

    name = "replace an export"
    begins = (1.0,)

    def prepare(self, folder: Path) -> None:
        """The earlier one."""
        write_export(folder / "export", 1.0)

    def act(self, folder: Path, note: Note) -> None:
        """See the class."""
        write_export(folder / "export", 2.0)
        note(2.0)

    def recover(self, folder: Path, known: Known) -> None:
        """One of the two, or none, which a resumed run writes again."""
        place = folder / "export"
        if place.is_dir() or known.coming is None:
            known.check(read_export(place))
        write_export(place, 3.0)
        if read_export(place) != 3.0 or [path.name for path in folder.iterdir()] != ["export"]:
            raise LostError(f"left over: {sorted(path.name for path in folder.iterdir())}")
        shutil.rmtree(place)


def write_export(folder: Path, value: float) -> None:
    """A small export whose weights safetensors writes itself."""
    with written_aside(folder) as aside:
        save_file({"weight": torch.full((24,), value)}, aside / "model.safetensors")
        (aside / "config.json").write_text(f'{{"value": {value}}}\n')


def read_export(folder: Path) -> float:
    """The value of an export, whose files agree.

    Raises:
        LostError: they do not.
    """
    weight = load_file(folder / "model.safetensors")["weight"]
    value = float(weight[0])
    text = (folder / "config.json").read_text()
    if weight.tolist() != [value] * 24 or text != f'{{"value": {value}}}\n':
        raise LostError("the export is a mixture")
    return value
