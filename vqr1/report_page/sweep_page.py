"""The page of a sweep: its settings with intervals, jobs, curves, and its leaderboard."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vqr1.counted import counted
from vqr1.errors import DataError
from vqr1.report_page import files
from vqr1.report_page.blocks import number_of
from vqr1.report_page.charts import IntervalRow, curve_chart, interval_chart
from vqr1.report_page.sections import (
    Block,
    Card,
    Chart,
    Links,
    Note,
    Page,
    Section,
    Source,
    TableBlock,
)

SUMMARY = "sweep_summary.json"
CURVE = "val/srcc"
MOST_CURVES = 8
"""Jobs whose curves are drawn, the first ones: more cannot be distinguished."""
MOST_LINKS = 200


def sweep_page(folder: Path) -> Page:
    """A sweep, or the summary of one.

    Raises:
        DataError: it has no summary yet, or a file is damaged.
    """
    summary = files.read_object(folder / SUMMARY)
    if not summary:
        raise DataError(f"{folder}: the sweep has no summary yet; it writes one at its end")
    metric = str(summary.get("metric") or "no metric")
    rows, jobs = (_objects(summary.get(key)) for key in ("rows", "jobs"))
    counts: Mapping[str, Any] = summary.get("counts") or {}
    keys = list(dict.fromkeys(key for row in rows for key in row.get("setting", {})))
    states = ", ".join(f"{count} {status.lower()}" for status, count in counts.items())
    return Page(
        "sweep",
        f"Sweep over {', '.join(keys) or 'seeds'}",
        f"{metric} of {counted(len(jobs), 'job')}: {states}.",
        _cards(rows, metric, counts, len(jobs)),
        [
            Section("Results", [*_chart(rows, metric), _settings(rows, keys)]),
            Section("Leaderboard", _boards(folder)),
            Section("Curves", _curves(folder, jobs)),
            Section("Jobs", [_jobs(jobs, metric), *_links(folder, jobs)]),
            Section("Configuration", [Source("Command", str(summary.get("command", "")))]),
        ],
    )


def _cards(
    rows: Sequence[Mapping[str, Any]], metric: str, counts: Mapping[str, Any], jobs: int
) -> list[Card]:
    found = [Card("Settings", str(len(rows)))]
    found.append(Card("Jobs", str(jobs), f"{counts.get('FINISHED', 0)} finished"))
    values = [row for row in rows if isinstance(row.get("mean"), float)]
    if values:
        best = max(values, key=lambda row: float(row["mean"]))
        found.insert(0, Card(f"Highest mean of {metric}", f"{best['mean']:.3f}", _name(best)))
    return found


def _chart(rows: Sequence[Mapping[str, Any]], metric: str) -> list[Block]:
    values = []
    for row in rows:
        low, high = row.get("interval") or (None, None)
        values.append(
            IntervalRow(_name(row), number_of(row.get("mean")), number_of(low), number_of(high))
        )
    if not any(math.isfinite(value.value) for value in values):
        return [Note("No job has a value of the metric yet.")]
    description = f"Mean of {metric} of each setting with its 95 % interval, as in the table below."
    title = f"{metric}, mean over seeds with 95 % interval"
    return [Chart(title, interval_chart(values, metric, description), wide=True)]


def _settings(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> TableBlock:
    cells = []
    for row in rows:
        setting = row.get("setting", {})
        missing = ", ".join(f"{n} {why}" for why, n in (row.get("missing") or {}).items())
        runs = f"{len(row.get('by_seed') or ())} of {row.get('jobs', '?')}"
        p = row.get("p_value")
        cells.append(
            [
                *([str(setting.get(key, "")) for key in keys] or ["(all)"]),
                f"{runs} ({missing})" if missing else runs,
                _interval(row.get("mean"), row.get("interval")),
                _number(row.get("std")),
                _number(row.get("best")),
                _interval(row.get("difference"), row.get("difference_interval"), "+"),
                "" if p is None else f"{p:.3g}",
            ]
        )
    heads = [*(keys or ["setting"]), "runs", "mean", "std", "best", "against the first", "p"]
    notes = [
        "95 % t intervals over seeds; differences to the first row are of the seeds that both "
        "have, p of Student's paired t-test"
    ]
    return TableBlock("Settings", heads, cells, notes)


def _jobs(jobs: Sequence[Mapping[str, Any]], metric: str) -> TableBlock:
    rows = [
        [
            str(job.get("number")),
            ", ".join(f"{key}={value}" for key, value in (job.get("swept") or {}).items()),
            str(job.get("status", "")).lower(),
            _number(job.get("value")),
            str(job.get("error") or job.get("missing") or ""),
        ]
        for job in jobs
    ]
    return TableBlock("Each job", ("job", "setting", "status", metric, "remark"), rows, text=(1, 4))


def _links(folder: Path, jobs: Sequence[Mapping[str, Any]]) -> list[Block]:
    numbers = [str(job.get("number")) for job in jobs]
    found = [
        (f"job {number}", f"{number}/report.html")
        for number in numbers
        if number.isdigit() and (folder / number / "report.html").is_file()
    ]
    return [Links("Reports of the jobs, beside this file", found[:MOST_LINKS])] if found else []


def _curves(folder: Path, jobs: Sequence[Mapping[str, Any]]) -> list[Block]:
    series: dict[str, files.Series] = {}
    for job in jobs:
        number = str(job.get("number"))
        points = files.read_curves(folder / number).get(CURVE) if number.isdigit() else None
        if points and len(series) < MOST_CURVES:
            setting = ", ".join(f"{k}={v}" for k, v in (job.get("swept") or {}).items())
            series[f"{setting} (job {number})"] = points
    if not series:
        return []
    more = "" if len(series) == len(jobs) else f", the first {len(series)} of {len(jobs)} jobs"
    description = f"{CURVE} over optimizer steps of {counted(len(series), 'job')}."
    return [Chart(f"{CURVE}{more}", curve_chart(series, CURVE, description), wide=True)]


def _boards(folder: Path) -> list[Block]:
    return [
        TableBlock(
            f"Methods on {name.removeprefix('leaderboard_')}; leaderboard.md has the notes",
            heads,
            rows,
        )
        for name, heads, rows in files.read_csv_tables(folder, "leaderboard_*.csv")
    ]


def _objects(found: Any) -> list[dict[str, Any]]:
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _name(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in (row.get("setting") or {}).items()) or "all"


def _interval(value: Any, interval: Any, sign: str = "") -> str:
    low, high = map(number_of, interval or (None, None))
    text = _number(value, sign)
    return f"{text} [{low:{sign}.3f}, {high:{sign}.3f}]" if math.isfinite(low) else text


def _number(value: Any, sign: str = "") -> str:
    return f"{value:{sign}.3f}" if math.isfinite(number_of(value)) else ""
