"""What the jobs of a sweep reached, read back from where they logged it.

From the jobs' folders (`metrics.csv` or the journal, and `summary.json`), which hold all that was
logged. Where they are not on this machine, or a job's is gone, from the child runs in MLflow, by
the parent's id.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from vqr1.config.metrics import HEADLINE
from vqr1.config.plain import flatten
from vqr1.config.renamed import present_name
from vqr1.errors import ConfigError
from vqr1.evaluation.metrics import DIRECTION, OWN_METRICS, falling_metrics
from vqr1.sweeps.folder import FINISHED, PRUNED, WAITING, Attempt, SweepFolder
from vqr1.sweeps.parent import ERROR_TAG, ParentRun
from vqr1.tracking.delivery import delivered_run
from vqr1.tracking.logged import logged_metrics

logger = logging.getLogger(__name__)

TESTED = f"test/{HEADLINE}_after"
PREFERRED = (TESTED, f"val/{HEADLINE}_best", f"val/{HEADLINE}")
"""Metrics that a summary shows, the first that the jobs have, where none is named."""
SUMMARY_KEYS = {
    f"test_{HEADLINE}_after": TESTED,
    f"val_{HEADLINE}_best": f"val/{HEADLINE}_best",
}
"""Metrics of `summary.json` by the metric that they are."""


@dataclass(frozen=True)
class JobResult:
    """One job of a sweep as its summary sees it.

    Attributes:
        name: the job's name.
        number: the attempt that counts.
        swept: values of the swept keys.
        status: FINISHED, FAILED, PRUNED, KILLED, RUNNING or WAITING.
        metrics: last value of every metric; NaN where that was undefined.
        curve: (step, value) of the curve's metric.
        error: last line of the error, None unless failed.
        run_id: MLflow run, None without MLflow.
        falling: names of metrics of the user's own that fall with quality, by the configuration.
    """

    name: str
    number: int
    swept: dict[str, str]
    status: str
    metrics: dict[str, float] = field(default_factory=dict)
    curve: tuple[tuple[int, float], ...] = ()
    error: str | None = None
    run_id: str | None = None
    falling: frozenset[str] = frozenset()


def read_folder(folder: SweepFolder, curve: str) -> list[JobResult]:
    """Results of every job of a sweep's folder in the order of its plan, from files alone.

    Args:
        folder: the sweep.
        curve: metric whose course is read.
    """
    attempts = folder.results()
    record = folder.record
    planned = {} if record is None else record.jobs
    waiting = {
        name: JobResult(name, -1, swept, WAITING)
        for name, swept in planned.items()
        if name not in attempts
    }
    begun = {name: _from_files(attempt, curve) for name, attempt in attempts.items()}
    found = begun | waiting
    return [found[name] for name in dict.fromkeys([*planned, *found])]


def read_children(parent: ParentRun, swept: Sequence[str], curve: str) -> list[JobResult]:
    """Results of every job of a parent run, from MLflow alone.

    Args:
        parent: the parent run.
        swept: the swept keys, which are tags of the children.
        curve: metric whose course is read.

    Raises:
        ConfigError: the store does not answer.
    """
    from vqr1.tracking.outages import store_reached

    with store_reached(parent.tracking_uri):
        return _children(parent, swept, curve)


def _children(parent: ParentRun, swept: Sequence[str], curve: str) -> list[JobResult]:
    from vqr1.tracking.store import slug

    keys = {key: slug(key) for key in swept}
    wanted = ["vqr1.job", "vqr1.job_number", "vqr1.pruned", ERROR_TAG, *keys.values()]
    chosen: dict[str, JobResult] = {}
    for run in parent.child_values(wanted, OWN_METRICS, slug(curve)):
        name = run.tags.get("vqr1.job")
        if name is None or (name in chosen and chosen[name].status == FINISHED):
            continue
        points = {step: value for step, value in run.history if math.isfinite(value)}
        chosen[name] = JobResult(
            name,
            int(run.tags.get("vqr1.job_number", -1)),
            {key: run.tags[tag] for key, tag in keys.items() if tag in run.tags},
            PRUNED if run.tags.get("vqr1.pruned") == "true" else run.status,
            {present_name(metric): value for metric, value in run.metrics.items()},
            tuple(sorted(points.items())),
            run.tags.get(ERROR_TAG),
            run.run_id,
            falling_metrics(run.params),
        )
    return list(chosen.values())


def read_sweep(
    folder: SweepFolder,
    parent_of: Callable[[], ParentRun | None],
    swept: Sequence[str],
    curve: str,
) -> list[JobResult]:
    """Results of every job of a sweep's folder; of jobs without a folder or a run, by MLflow too.

    A store that cannot be read is done without, with a warning.

    Args:
        folder: the sweep.
        parent_of: opens its parent run, called only where a job needs it; None without MLflow.
        swept: the swept keys.
        curve: metric whose course is read.
    """
    planned = read_folder(folder, curve)
    if all(result.run_id is not None for result in planned):
        return planned
    try:
        parent = parent_of()
        children = [] if parent is None else read_children(parent, swept, curve)
    except ConfigError as error:
        logger.warning("%s: read from the jobs' folders alone (%s)", folder.path, error)
        return planned
    logged = {result.name: result for result in children}
    # A log that is not delivered yet lacks the last metrics, which the folder has.
    return [_joined(logged.get(result.name), result) for result in planned]


def _joined(logged: JobResult | None, kept: JobResult) -> JobResult:
    if logged is None:
        return kept
    if kept.number < 0:
        return logged  # its folder is gone
    if kept.number != logged.number:
        return kept  # a log that is not delivered at all; there is one of an earlier attempt
    return replace(
        kept,
        run_id=logged.run_id,
        metrics={**logged.metrics, **kept.metrics},
        curve=kept.curve or logged.curve,
        falling=kept.falling | logged.falling,
    )


def shown_metric(results: Sequence[JobResult], asked: str | None) -> str | None:
    """The metric that a summary shows; None where no job has finished.

    Raises:
        ConfigError: no finished job has the metric that was asked for.
    """
    finished = [result for result in results if result.status == FINISHED]
    logged = sorted({name for result in finished for name in result.metrics})
    there = ", ".join(logged) or "none"
    if not finished:
        return None
    if asked is not None:
        if asked in logged:
            return asked
        raise ConfigError([f"sweep.metric={asked}: no finished job logged it; there are {there}"])
    return next((name for name in PREFERRED if name in logged), None)


def _from_files(attempt: Attempt, curve: str) -> JobResult:
    metrics, points = _logged(attempt.folder, curve)
    metrics |= _summary_metrics(attempt.folder / "summary.json")
    error = None if attempt.outcome is None else attempt.outcome.error
    job = attempt.job
    config = _config(attempt.folder / "config.yaml")
    return JobResult(
        job.name, attempt.number, job.swept, attempt.status, metrics, points, error,
        delivered_run(attempt.folder), falling_metrics(config),
    )  # fmt: skip


def _config(file: Path) -> dict[str, object]:
    """A job's configuration by dotted keys.

    Empty where it has no metric of the user's own, by far most of them (reading one takes 15 ms),
    and where a killed job left none that can be read.
    """
    try:
        text = file.read_text(encoding="utf-8")
        values = yaml.safe_load(text) if DIRECTION in text else None
    except (FileNotFoundError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return flatten(values) if isinstance(values, Mapping) else {}


def _logged(folder: Path, curve: str) -> tuple[dict[str, float], tuple[tuple[int, float], ...]]:
    """Last value of every metric, and the finite ones of one metric by step."""
    last: dict[str, float] = {}
    points: dict[int, float] = {}
    for step, values in logged_metrics(folder):
        last |= values
        if math.isfinite(values.get(curve, math.nan)):
            points[step] = values[curve]
    return last, tuple(sorted(points.items()))


def _summary_metrics(file: Path) -> dict[str, float]:
    if not file.is_file():
        return {}
    values = json.loads(file.read_text(encoding="utf-8"))
    found = {metric: values.get(key) for key, metric in SUMMARY_KEYS.items()}
    metrics = {name: float(value) for name, value in found.items() if value is not None}
    if found[TESTED] is None and values.get("test_images"):
        metrics[TESTED] = math.nan  # tested, and undefined
    return metrics
