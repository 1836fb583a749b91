"""Runs the three studies, one run after the other in this process; see README.md.

    python experiments/method_comparison/sweep.py --data DIR            # all, or what is missing
    python experiments/method_comparison/sweep.py --data DIR --list     # what is missing
    python experiments/method_comparison/sweep.py --studies methods --sets demo --minutes 30

A run whose metrics file lies in its experiment's `results/` is passed over, one that was stopped
continues from its last state. Several of these processes share the work: each takes runs that no
other one holds.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parent
EXPERIMENTS = HERE.parent
sys.path.insert(0, str(HERE))
from arms import ARMS, BASELINE, FORMS, GROUP_ARMS, METHOD_ARMS, METHODS, PARTLY, REWARD_ARMS, Arm  # noqa: E402

from vqr1.errors import UserError  # noqa: E402

if TYPE_CHECKING:
    from plan import Plan

DEMO, BIQ = "demo", "biq2021"
SEEDS = (1, 2, 3)
START = "start"
WORK = Path("outputs") / METHODS
STUDIES = {"methods": METHOD_ARMS, "rewards": REWARD_ARMS, "groups": GROUP_ARMS}


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        arm: its setting.
        dataset: trained and tested on.
        seed: of batches and samples.
    """

    arm: Arm
    dataset: str
    seed: int

    @property
    def name(self) -> str:
        """In file names."""
        return f"{self.arm.name}_seed{self.seed}"

    @property
    def folder(self) -> Path:
        """Of the run; not committed."""
        return WORK / self.dataset / self.name

    @property
    def result(self) -> Path:
        """The metrics file; predictions lie beside it."""
        return EXPERIMENTS / self.arm.experiment / "results" / self.dataset / f"{self.name}.json"


def start_file(form: str, dataset: str) -> Path:
    """Metrics of a start, by the form that it was taught; `packaged`: none."""
    return HERE / "results" / dataset / f"{START}_{form}.json"


def jobs_of(studies: list[str], sets: list[str], best: list[str]) -> list[Job]:
    """All runs in the order of their importance."""
    jobs: list[Job] = []
    whole = [arm for arm in METHOD_ARMS if arm.name not in PARTLY]
    partly = [arm for arm in METHOD_ARMS if arm.name in PARTLY]
    if "methods" in studies and DEMO in sets:
        order = ((whole, SEEDS[:2]), (partly, SEEDS[:1]), (whole, SEEDS[2:]), (partly, SEEDS[1:]))
        jobs += [Job(arm, DEMO, seed) for arms, seeds in order for seed in seeds for arm in arms]
    if "methods" in studies and BIQ in sets:
        jobs += [Job(arm, BIQ, 1) for arm in (*whole, *partly)]
    for name in ("rewards", "groups"):
        if name in studies and DEMO in sets:
            jobs += [Job(arm, DEMO, seed) for seed in SEEDS for arm in STUDIES[name]]
    if "methods" in studies and BIQ in sets:
        jobs += [Job(ARMS[n], BIQ, seed) for seed in SEEDS[1:] for n in (BASELINE, *best)]
    once = {(DEMO, 1)}
    return [
        job
        for job in jobs
        if job.dataset not in dict(job.arm.without)
        and (job.arm.same_as is None or (job.dataset, job.seed) in once)
    ]


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", help="folder of BIQ2021")
    parser.add_argument("--studies", default="methods,rewards,groups")
    parser.add_argument("--sets", default=f"{DEMO},{BIQ}")
    parser.add_argument("--arms", help="these arms only")
    parser.add_argument("--best", default="", help="methods with three seeds on BIQ2021 too")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no run after so many")
    parser.add_argument("--list", action="store_true", help="print what is missing")
    given = parser.parse_args()
    sets = [s for s in given.sets.split(",") if s != BIQ or given.data]
    jobs = jobs_of(given.studies.split(","), sets, [b for b in given.best.split(",") if b])
    if given.arms:
        jobs = [job for job in jobs if job.arm.name in given.arms.split(",")]
    missing = [job for job in jobs if not job.result.is_file()]
    if not given.list:
        missing = Sweep(given.data, given.minutes).run(missing)
    print(f"{len(jobs) - len(missing)} of {len(jobs)} runs are there; missing:")
    for job in missing:
        print(f"  {job.dataset} {job.name}")


class Sweep:
    """Runs jobs.

    Args:
        biq: folder of BIQ2021, or None.
        minutes: after which none is begun.
    """

    def __init__(self, biq: str | None, minutes: float) -> None:
        self._biq, self._end = biq, time.monotonic() + 60 * minutes

    def run(self, jobs: list[Job]) -> list[Job]:
        """Run them; those that are still missing."""
        for job in jobs:
            if time.monotonic() > self._end:
                break
            try:
                with held(job.folder) as mine:
                    if mine and not job.result.is_file() and self._ready(job):
                        self._run(job)
            except UserError as error:
                # The others do not depend on it; a defect ends the sweep, which resumes.
                print(f"FAILED {job.dataset} {job.name}: {error}", flush=True)
        return [job for job in jobs if not job.result.is_file()]

    def _ready(self, job: Job) -> bool:
        return (
            job.arm.teacher is None
            or Job(ARMS[job.arm.teacher], job.dataset, job.seed).result.is_file()
        )

    def _data(self, dataset: str) -> tuple[str, ...]:
        cache = f"loader.cache_dir={WORK.resolve() / 'images'}"
        root = () if dataset == DEMO else (f"dataset.root={self._biq}",)
        return (f"dataset={dataset}", *root, cache)

    def _start(self, form: str | None, dataset: str) -> Path | None:
        """Weights that a form's arms begin with, made and scored once; None: the packaged ones."""
        arm = ARMS[BASELINE if form is None else FORMS[form].method]
        file = start_file(form or "packaged", dataset)
        with held(WORK / "starts" / (form or "packaged"), wait=True):
            weights = None if form is None else self._taught(form)
            if not file.is_file():
                self._score(arm, weights, dataset, file, {})
        return weights

    def _taught(self, form: str) -> Path:
        """Weights after as many lessons in a form as it takes."""
        from runs import LEAST_VALID, LESSON_STEPS, scorer

        export = Path()
        for steps in LESSON_STEPS:
            folder = WORK / "starts" / f"{form}_{steps}"
            export, note = folder / "export", folder / "valid_rate.json"
            self._teach(form, folder, steps)
            if not note.is_file():
                with scorer(ARMS[FORMS[form].method], export, self._data(DEMO), 2) as asked:
                    valid = float(asked.score("train", 48).valid.mean())
                note.write_text(json.dumps(valid), encoding="utf-8")
            if float(json.loads(note.read_text(encoding="utf-8"))) >= LEAST_VALID:
                break
        return export

    def _teach(self, form: str, folder: Path, steps: int) -> None:
        from plan import config_of
        from runs import LESSONS, lessons, scorer, train

        own = FORMS[form]
        answers = WORK.resolve() / "starts" / f"{form}.jsonl"
        few = f"dataset.max_images={LESSONS}"
        if not answers.is_file():
            data = (*self._data(DEMO), few)
            with scorer(ARMS[BASELINE], None, data, 2) as asked:
                found = asked.score("train", LESSONS)
            answers.parent.mkdir(parents=True, exist_ok=True)
            arm = ARMS[own.method]
            lessons(found, own, config_of(arm).answer.form, answers)
        method = [o for o in ARMS[own.method].overrides if o.startswith(("method", "answer"))]
        train(
            [
                *method, ARMS[own.method].limit, "stage=sft", "target=mos",
                "validation.mode=answers", f"stage.answers={answers}", *self._data(DEMO), few,
                "seed=1", "optimizer.lr=1e-3", "model.freeze_vision=true", f"max_steps={steps}",
                "votes.rounds=1",
            ],
            folder.resolve(),
        )  # fmt: skip

    def _run(self, job: Job) -> None:
        from runs import cpu_seconds

        start = self._begin(job)
        plan = self._plan(job.arm)
        print(f"-- {job.dataset} {job.name}: {plan.rounds} x {plan.steps} steps", flush=True)
        wall, cpu = time.monotonic(), cpu_seconds()
        export = self._train(job, start, plan)
        values = {
            "arm": job.arm.name, "dataset": job.dataset, "seed": job.seed, **asdict(plan),
            "operations": plan.total, "seconds": round(time.monotonic() - wall, 1),
            "cpu_seconds": round(cpu_seconds() - cpu, 1),
        }  # fmt: skip
        self._score(job.arm, export, job.dataset, job.result, values)
        shutil.rmtree(job.folder / "checkpoints", ignore_errors=True)

    def _begin(self, job: Job) -> Path | None:
        """The weights that a run begins with, which are tested too; None: the packaged ones."""
        arm = job.arm
        for dataset in {DEMO, job.dataset}:
            self._start(None, dataset)
            start = self._start(arm.form, dataset)
        if arm.teacher is None:
            return start
        teacher = Job(ARMS[arm.teacher], job.dataset, job.seed)
        export = teacher.folder / "export"
        if not export.is_dir():
            # Its results are kept longer than its weights.
            print(f"-- {job.dataset} {teacher.name} again, the teacher", flush=True)
            self._train(teacher, self._begin(teacher), self._plan(teacher.arm))
        return export

    def _plan(self, arm: Arm) -> Plan:
        from plan import budget_of, plan_of

        own, packaged = (
            float(json.loads(start_file(form, DEMO).read_text(encoding="utf-8"))["tokens"])
            for form in (arm.form or "packaged", "packaged")
        )
        return plan_of(arm, own, budget_of(packaged))

    def _train(self, job: Job, start: Path | None, plan: Plan) -> Path:
        """All trainings of a run, those that have ended passed over; its weights."""
        from runs import train

        arm = job.arm
        for number in range(1, plan.rounds + 1):
            last = number == plan.rounds
            folder = job.folder if last else job.folder.with_name(f"{job.name}_{number}")
            begin = [] if start is None else [f"model.path={start.resolve()}"]
            train(
                [*arm.overrides, arm.limit, *self._data(job.dataset), *begin, f"seed={job.seed}",
                 f"max_steps={plan.steps}"],
                folder.resolve(),
            )  # fmt: skip
            start = folder / "export"
        return job.folder / "export"

    def _score(
        self, arm: Arm, weights: Path | None, dataset: str, file: Path, values: dict[str, object]
    ) -> None:
        from runs import ANSWERS, TEST_IMAGES, scorer

        from vqr1.iqa.correlation import plcc_value, srcc_value

        with scorer(arm, weights, self._data(dataset), ANSWERS) as asked:
            found = asked.score("test", TEST_IMAGES)
            tokens = asked.tokens(found)
        scores = found.image_scores()
        there = scores == scores
        values = {
            **values,
            "srcc": srcc_value(scores[there], found.mos[there]).value,
            "plcc": plcc_value(scores[there], found.mos[there]).value,
            "images": len(found), "scored": int(there.sum()),
            "valid_rate": float(found.valid.mean()),
            "format_compliance_rate": float(found.format_compliant.mean()),
            "tokens": tokens,
        }  # fmt: skip
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.with_suffix(".csv").open("w", newline="", encoding="utf-8") as out:
            lines = csv.writer(out, lineterminator="\n")
            lines.writerow(["image", "mos", "score"])
            for image, mos, score in zip(found.images, found.mos, scores, strict=True):
                lines.writerow([image, f"{mos:.5g}", "" if score != score else f"{score:.5g}"])
        aside = file.with_suffix(".part")
        aside.write_text(json.dumps(_plain(values), indent=1) + "\n", encoding="utf-8")
        os.replace(aside, file)
        print(
            f"   {file.stem}: SRCC {values['srcc']:.3f}, valid {values['valid_rate']:.2f}",
            flush=True,
        )


def _plain(values: dict[str, object]) -> dict[str, object]:
    """With few digits, and null for what is no number."""

    def few(value: object) -> object:
        if not isinstance(value, float):
            return value
        return None if value != value else float(f"{value:.5g}")

    return {name: few(value) for name, value in values.items()}


class held:  # noqa: N801 - used like a function
    """Whether a folder's lock is this process's, for the time of the block.

    Args:
        folder: what is worked on.
        wait: for another process that holds it.
    """

    def __init__(self, folder: Path, wait: bool = False) -> None:
        from vqr1.locks import FileLock

        folder.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder.with_name(f"{folder.name}.held"))
        self._wait = wait

    def __enter__(self) -> bool:
        while not (mine := self._lock.acquire()) and self._wait:
            time.sleep(1)
        return mine

    def __exit__(self, *_: object) -> None:
        self._lock.release()


if __name__ == "__main__":
    main()
