"""What evaluations and `score.py` write: rows that are appended, merged, continued."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from tools.faults.crash.explore import Known, LostError, Note, Scenario
from vqr1.evaluation.partial_predictions import (
    PlannedBatch,
    check_settings,
    finished_file,
    merge,
    partials,
    read_partials,
    remaining,
)
from vqr1.evaluation.prediction_file import PredictionStream, read_predictions
from vqr1.evaluation.predictions import Predictions
from vqr1.inference import result_file
from vqr1.inference.result import Result
from vqr1.inference.result_file import ResultFile, RowAppender, read_results, settings_file

PLAN = [PlannedBatch("set", (f"{number}a.png", f"{number}b.png")) for number in range(3)]
SETTINGS = {"seed": 1, "model": "m"}


class PartialPredictions(Scenario):
    """Batches of two ranks, each committed, and the file that they are merged into."""

    name = "append predictions, commit, merge"
    begins = (0,)
    tears = 2

    def prepare(self, folder: Path) -> None:
        """A folder of evaluations."""
        (folder / "evals").mkdir()

    def act(self, folder: Path, note: Note) -> None:
        """See the class."""
        self._evaluate(folder / "evals" / "run", note)

    def _evaluate(self, run: Path, note: Note) -> None:
        check_settings(run, SETTINGS)
        if finished_file(run) is not None:
            return
        done = read_partials(run)
        count = 0
        for number in remaining(PLAN, done):
            stream = PredictionStream(partials(run).of(number % 2))
            stream.append(_scored(PLAN[number], number))
            stream.close()
            note(count := count + 1)
        merge(run, PLAN, ".csv")
        note("merged")

    def recover(self, folder: Path, known: Known) -> None:
        """The same command again: nothing is asked twice, and the file is that of one start."""
        run = folder / "evals" / "run"
        finished = run.is_dir() and finished_file(run) is not None
        if "merged" in known.done and not finished:
            raise LostError("the merged file is gone")
        if not finished:
            rows = read_partials(run) if run.is_dir() else None
            known.check(0 if rows is None else len(rows) // len(PLAN[0].images))
        self._evaluate(run, lambda value: None)
        found = read_predictions(run / "predictions.csv")
        texts = [text for (text,) in found.texts]
        if texts != [f"{number}, asked" for number in (0, 0, 1, 1, 2, 2)]:
            raise LostError(f"the merged rows are {texts}")


def _scored(batch: PlannedBatch, number: int) -> Predictions:
    count = len(batch.images)
    return Predictions(
        images=batch.images,
        datasets=(batch.dataset,) * count,
        index=np.arange(count, dtype=np.int64) + number * count,
        mos=np.full(count, 3.0),
        scores=np.full((count, 1), float(number)),
        valid=np.ones((count, 1), dtype=bool),
        format_compliant=np.ones((count, 1), dtype=bool),
        texts=((f"{number}, asked",),) * count,
        references=(None,) * count,
        distortions=(None,) * count,
        lost=np.full(count, np.nan),
        std=np.full(count, np.nan),
        decoded_at=(None,) * count,
    )


class ContinuedResults(Scenario):
    """A file of results that is continued, after a start in which two ranks had partial files."""

    name = "continue a file of results"
    begins = (2,)
    images = ("a.png", "b.png", "c.png", "d.png", "e.png")

    def prepare(self, folder: Path) -> None:
        """One row in the file, one in the partial file of a rank."""
        path = folder / "results.csv"
        with ResultFile(path, "csv", SETTINGS, resume=True) as file:
            file.write(_result("a.png"))
        with RowAppender(result_file.partials(path).of(0), "csv") as rows:
            rows.write(_result("b.png"))

    def act(self, folder: Path, note: Note) -> None:
        """The partial row into the file; a row in a new partial file, then in the file too."""
        path = folder / "results.csv"
        with ResultFile(path, "csv", SETTINGS, resume=True) as file:
            with RowAppender(result_file.partials(path).of(0), "csv") as rows:
                rows.write(_result("c.png"))
            note(3)
            for image in ("c.png", "d.png"):
                file.write(_result(image))
        note(4)

    def recover(self, folder: Path, known: Known) -> None:
        """The same command again: no row is lost that was committed, and none is doubled."""
        path = folder / "results.csv"
        file = ResultFile(path, "csv", SETTINGS, resume=True)
        known.check(len(file.kept))
        held = [result.path for result in file.kept]
        if sorted(map(str, held)) != list(self.images[: len(held)]):
            raise LostError(f"rows of {held}")
        with file:
            for image in self.images:
                if not file.holds(Path(image)):
                    file.write(_result(image))
        found = Counter(result.path for result in read_results(path, "csv"))
        if found != Counter(self.images):
            raise LostError(f"rows of {found}")


class ReplacedResults(Scenario):
    """A file of results that is replaced by one with other settings."""

    name = "replace a file of results"
    begins = ((1, 3),)

    def prepare(self, folder: Path) -> None:
        """Three rows."""
        self._write(folder / "results.jsonl", 1, ("a.png", "b.png", "c.png"))

    def act(self, folder: Path, note: Note) -> None:
        """Two rows with another seed."""
        self._write(folder / "results.jsonl", 2, ("a.png", "b.png"))
        note((2, 2))

    def _write(self, path: Path, seed: int, images: tuple[str, ...]) -> None:
        with ResultFile(path, "jsonl", {**SETTINGS, "seed": seed}, resume=False) as file:
            for image in images:
                file.write(_result(image, seed))

    def recover(self, folder: Path, known: Known) -> None:
        """A file never stands beside settings that are not its."""
        path = folder / "results.jsonl"
        if not path.exists():
            if known.done != self.begins:
                raise LostError("the file is gone")
            return
        begun = 1 if '"seed": 1' in settings_file(path).read_text() else 2
        found = ResultFile(path, "jsonl", {**SETTINGS, "seed": begun}, resume=True).kept
        if any(result.score != begun for result in found):
            raise LostError(f"rows {found} beside the settings of seed {begun}")
        if known.coming is None and (begun, len(found)) != known.done[-1]:
            raise LostError(f"{len(found)} rows of seed {begun}")


def _result(image: str, score: int = 3) -> Result:
    # Of another length for each image.
    text = "an answer of some words, " * (3 + ord(image[0]) % 4)
    return Result(image, float(score), valid=True, text=text)
