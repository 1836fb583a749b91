"""A sweep's summary as CSV, Markdown, JSON and metrics, in its folder and at its parent run."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vqr1.durable import replacing, write_file
from vqr1.sweeps.folder import FINISHED
from vqr1.sweeps.parent import ParentRun
from vqr1.sweeps.plots import key_plot, plotted_keys
from vqr1.sweeps.results import JobResult, shown_metric
from vqr1.sweeps.summary import MeanInterval, SettingRow, best_of, setting_rows, why_missing
from vqr1.tracking.store import slug


@dataclass(frozen=True)
class SweepReport:
    """A sweep's summary.

    Attributes:
        command: the command line.
        metric: the metric shown, None where no job has one.
        rows: a row for each setting.
        jobs: every job.
        sweep: its folder, or the id of its parent run; distinguishes sweeps of one command.
    """

    command: str
    metric: str | None
    rows: list[SettingRow]
    jobs: list[JobResult]
    sweep: str = ""

    @classmethod
    def build(
        cls, command: str, results: Sequence[JobResult], metric: str | None, sweep: str = ""
    ) -> SweepReport:
        """Summarise results.

        Args:
            command: the command line.
            results: every job.
            metric: the metric asked for; None takes the first of `results.PREFERRED` there is.
            sweep: its folder, or the id of its parent run.

        Raises:
            ConfigError: no finished job has the metric that was asked for.
        """
        jobs = list(results)
        metric = shown_metric(jobs, metric)
        return cls(command, metric, setting_rows(jobs, metric), jobs, sweep)

    @property
    def counts(self) -> dict[str, int]:
        """Jobs by status."""
        return dict(Counter(result.status for result in self.jobs))

    def markdown(self) -> str:
        """The summary as a Markdown page."""
        keys = list(dict.fromkeys(key for row in self.rows for key in row.setting))
        heads = [
            *(keys or ["setting"]),
            "runs",
            "mean",
            "std",
            "best",
            "against the first row",
            "p",
        ]
        lines = [f"`{self.command}`", "", f"{self.metric or 'no metric'} of {_counted(self)}", ""]
        lines += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        for row in self.rows:
            cells = [row.setting.get(key, "") for key in keys] or ["(all)"]
            cells += [_runs(row), _interval(row.mean)]
            cells += [_number(row.std), _number(row.best)]
            cells += [_difference(row, self.rows[0])]
            cells += ["" if row.p_value is None else f"{row.p_value:.3g}"]
            lines.append("| " + " | ".join(cells) + " |")
        failed = [job for job in self.jobs if job.error is not None and job.status != FINISHED]
        lines += ["", *(f"- job {job.number} ({_swept(job)}): {job.error}" for job in failed)]
        return "\n".join(lines).rstrip() + "\n"

    def values(self) -> dict[str, Any]:
        """The summary as plain values for JSON."""
        return {
            "command": self.command,
            "sweep": self.sweep,
            "metric": self.metric,
            "counts": self.counts,
            "rows": [
                {
                    "setting": row.setting,
                    "by_seed": row.by_seed,
                    "jobs": row.jobs,
                    "missing": row.missing,
                    "mean": _finite(row.mean.mean),
                    "interval": [_finite(row.mean.low), _finite(row.mean.high)],
                    "std": _finite(row.std),
                    "best": _finite(row.best),
                    "difference": None if row.difference is None else row.difference.mean,
                    "difference_interval": None
                    if row.difference is None
                    else [_finite(row.difference.low), _finite(row.difference.high)],
                    "difference_over": row.common,
                    "p_value": row.p_value,
                }
                for row in self.rows
            ],
            "jobs": [
                {
                    "name": job.name,
                    "number": job.number,
                    "status": job.status,
                    "swept": job.swept,
                    "value": _value(job, self.metric),
                    "missing": why_missing(job, self.metric),
                    "error": job.error,
                    "run_id": job.run_id,
                }
                for job in self.jobs
            ],
        }

    def table(self) -> pd.DataFrame:
        """One line for each job."""
        return pd.DataFrame(
            [
                {
                    "job": job.number,
                    **job.swept,
                    "status": job.status,
                    self.metric or "value": _value(job, self.metric),
                    "missing": why_missing(job, self.metric),
                    "error": job.error,
                    "run_id": job.run_id,
                }
                for job in self.jobs
            ]
        )


def write_report(report: SweepReport, folder: Path, curve: str) -> list[Path]:
    """Write every file of a summary.

    Args:
        report: the summary.
        folder: receives the files.
        curve: metric of the plots' curves.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page, table = folder / "sweep_summary.md", folder / "sweep_summary.csv"
    values = folder / "sweep_summary.json"
    write_file(page, report.markdown())
    write_file(table, report.table().to_csv(index=False))
    write_file(values, json.dumps(report.values(), indent=2) + "\n")
    files = [page, table, values]
    if report.metric is not None:
        for key in plotted_keys(report.jobs):
            file = folder / f"sweep_{slug(key).replace('/', '-')}.png"
            with replacing(file) as aside:
                metric = key_plot(report.jobs, key, curve, report.metric)
                metric.savefig(aside, format="png", dpi=100)
            files.append(file)
    return files


def report_metrics(report: SweepReport) -> dict[str, float]:
    """A summary's headline metrics, for the run of its sweep."""
    found = {f"jobs/{status.lower()}": float(count) for status, count in report.counts.items()}
    means = [row.mean.mean for row in report.rows if math.isfinite(row.mean.mean)]
    if report.metric is not None and means:
        best = best_of(report.metric, means, report.jobs)
        found[f"best_mean/{slug(report.metric)}"] = best
    return found


def log_report(report: SweepReport, files: Sequence[Path], parent: ParentRun) -> None:
    """Log a summary's files and headline metrics to the parent run."""
    for file in files:
        parent.client.log_artifact(parent.run_id, str(file), "summary")
    for name, value in report_metrics(report).items():
        parent.client.log_metric(parent.run_id, name, value)


def _value(job: JobResult, metric: str | None) -> float | None:
    return None if metric is None else _finite(job.metrics.get(metric, math.nan))


def _runs(row: SettingRow) -> str:
    """How many runs a row's mean is over, and why others are not."""
    words = f"{len(row.by_seed)} of {row.jobs}"
    why = ", ".join(f"{count} {reason}" for reason, count in row.missing.items())
    return f"{words} ({why})" if why else words


def _difference(row: SettingRow, first: SettingRow) -> str:
    """The difference to the first row, and the seeds that it is over where some are not common."""
    if row.difference is None:
        return ""
    words = _interval(row.difference, "+")
    seeds = len(row.by_seed.keys() | first.by_seed.keys())
    return words if row.common == seeds else f"{words} over {row.common} of {seeds} seeds"


def _counted(report: SweepReport) -> str:
    counts = ", ".join(f"{count} {status.lower()}" for status, count in report.counts.items())
    return f"{len(report.jobs)} jobs: {counts}"


def _swept(job: JobResult) -> str:
    return ", ".join(f"{key}={value}" for key, value in job.swept.items())


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}" if math.isfinite(value) else "-"


def _interval(mean: MeanInterval, sign: str = "") -> str:
    if not math.isfinite(mean.low):
        return _number(mean.mean, sign)
    return f"{mean.mean:{sign}.3f} [{mean.low:{sign}.3f}, {mean.high:{sign}.3f}]"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
