"""A sweep's jobs, and a run's record."""

from __future__ import annotations

from pathlib import Path

from tools.faults.crash.explore import Known, LostError, Note, Scenario
from vqr1.sweeps.child import run_swept
from vqr1.sweeps.folder import Attempt, SweepFolder, SweepRecord, is_done
from vqr1.sweeps.jobs import SweepJob

JOBS = tuple(SweepJob(f"job{n}", (f"seed={n}",), {"seed": str(n)}) for n in (1, 2))


class SweptJobs(Scenario):
    """A sweep is begun, and its two jobs are done one after the other."""

    name = "sweep job done"
    begins = (0,)

    def prepare(self, folder: Path) -> None:
        """Where sweeps go."""
        (folder / "multirun").mkdir()

    def act(self, folder: Path, note: Note) -> None:
        """See the class."""
        self._sweep(folder / "multirun" / "sweep", note)

    def _sweep(self, place: Path, note: Note) -> list[str]:
        """What was trained now."""
        sweep = SweepFolder(place)
        if sweep.record is None:
            jobs = {job.name: job.swept for job in JOBS}
            sweep.write(SweepRecord("key", "train.py -m", {}, {"seed": "1,2"}, jobs))
        trained: list[str] = []

        def train(job: SweepJob) -> float:
            trained.append(job.name)
            return float(job.swept["seed"])

        done = 0
        for job in JOBS:
            before = sweep.results().get(job.name)
            if before is None or not is_done(before.outcome):
                number = sweep.next_number()
                attempt = Attempt(number, place / str(number), job)
                sweep.prepare(attempt)
                run_swept(attempt.folder, lambda job=job: train(job))  # type: ignore[misc]
            note(done := done + 1)
        return trained

    def recover(self, folder: Path, known: Known) -> None:
        """The same command again: what is done is not done again, and its value is that."""
        place = folder / "multirun" / "sweep"
        found = SweepFolder(place).results() if place.is_dir() else {}
        known.check(sum(is_done(attempt.outcome) for attempt in found.values()))
        done = {name for name, attempt in found.items() if is_done(attempt.outcome)}
        trained = self._sweep(place, lambda value: None)
        if set(trained) != {job.name for job in JOBS} - done:
            raise LostError(f"{sorted(done)} were done, and {trained} trained again")
        after = SweepFolder(place).results()
        values = {
            name: attempt.outcome and attempt.outcome.value for name, attempt in after.items()
        }
        if values != {"job1": 1.0, "job2": 2.0}:
            raise LostError(f"the jobs' values are {values}")
