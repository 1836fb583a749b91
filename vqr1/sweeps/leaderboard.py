"""The leaderboard of a sweep over methods: metrics on every test set, cost, and published numbers.

For each method and set, with r(s, w) a metric of seed s under image weights w:

    value     mean over seeds of r(s, 1)
    interval  of D draws; draw d resamples the images (or references), the same for all methods,
              and, from each method's S seeds, S of them with replacement: both are uncertain
    against   the first method: the difference of the two values; in each draw both see the same
    the first images and, where they have the same seeds, the same seeds; where they have not, each
              draws its own, and the table states it

SRCC and PLCC are of raw scores (no map is fitted); PLCC after the four-parameter logistic map
stands beside, without an interval. Maps fitted on the test images by isotonic regression, after
which one paper correlates, are not used. A published PLCC stands in the column of what it is taken
of, and in one of its own where that is something else or not stated. Cost is wall-clock seconds
times processes.

Not here: the sweep's own summary (`summary.py`: one metric, a t-test over seeds).

Shape legend: S seeds, n images, D draws.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vqr1.config.plain import flatten
from vqr1.counted import counted
from vqr1.durable import write_file
from vqr1.evaluation.compare import EvaluatedRun, aligned_parts, sets_of
from vqr1.evaluation.predictions import Predictions, bootstrap_clusters
from vqr1.evaluation.published import (
    PLCC_WORDS,
    PublishedMetrics,
    PublishedModel,
    published_groups,
)
from vqr1.evaluation.report import number, with_interval
from vqr1.evaluation.report_values import finite
from vqr1.evaluation.set_metrics import Measured, MetricOptions, measure
from vqr1.evaluation.summary import set_seed
from vqr1.evaluation.tables import Table, to_csv, to_markdown
from vqr1.iqa.bootstrap import Units, bootstrap_draws
from vqr1.iqa.correlation import FloatArray, MetricValue, plcc, plcc_value, srcc, srcc_value
from vqr1.iqa.logistic import fit_logistic
from vqr1.sweeps.folder import FINISHED, SweepFolder
from vqr1.sweeps.jobs import setting_name

STATISTICS = {"srcc": ("SRCC", srcc, srcc_value), "plcc": ("PLCC, raw", plcc, plcc_value)}
"""Metrics with intervals: label, function of scores and MOS, and the same with a reason where it
does not exist."""


@dataclass(frozen=True)
class Entry:
    """One method on one set.

    Attributes:
        method: its swept values.
        seeds: how many runs.
        paired: its seeds are those of the first method, so that differences pair them.
        metrics: by name of `STATISTICS`.
        differences: to the first method, likewise; empty for the first.
        fitted_plcc: mean over seeds of PLCC after the logistic map; NaN where none fits.
    """

    method: str
    seeds: int
    paired: bool
    metrics: Mapping[str, Measured]
    differences: Mapping[str, Measured]
    fitted_plcc: float


@dataclass(frozen=True)
class SetBoard:
    """All methods on one set.

    Attributes:
        dataset: its name.
        images: images with a score from every run.
        excluded: images without one from some run.
        unscored: by run that lacks scores, images without one from it.
        units: what the bootstrap drew beside seeds.
        entries: in the sweep's order.
    """

    dataset: str
    images: int
    excluded: int
    unscored: Mapping[str, int]
    units: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Cost:
    """What the runs of one method took.

    Attributes:
        seconds: mean over its runs of wall-clock seconds times processes; NaN where not known.
        device: gpu or cpu.
    """

    seconds: float
    device: str


def build_boards(
    settings: Mapping[str, Mapping[str, Predictions]], options: MetricOptions
) -> list[SetBoard]:
    """The leaderboard of every data set.

    Args:
        settings: by method, then by seed, the test predictions of a run.
        options: how metrics are computed: draws, level, seed, what is resampled.

    Raises:
        DataError: runs predicted different data sets, different images or other MOS.
    """
    runs = [
        EvaluatedRun(f"{name}, seed {seed}", predictions)
        for name, by_seed in settings.items()
        for seed, predictions in by_seed.items()
    ]
    parts = sets_of(runs)
    seeds = {name: tuple(by_seed) for name, by_seed in settings.items()}
    return [_board(name, runs, [p[name] for p in parts], seeds, options) for name in parts[0]]


def _board(
    dataset: str,
    runs: Sequence[EvaluatedRun],
    parts: Sequence[Predictions],
    seeds: Mapping[str, Sequence[str]],
    options: MetricOptions,
) -> SetBoard:
    aligned = aligned_parts(dataset, runs, parts)
    scores = np.stack([part.image_scores(options.rule) for part in aligned])
    missing = (~np.isfinite(scores)).sum(axis=1).tolist()
    lacking = {run.name: count for run, count in zip(runs, missing, strict=True) if count}
    common = np.all(np.isfinite(scores), axis=0)
    base, scores = aligned[0].rows(common), scores[:, common]
    clusters, _ = bootstrap_clusters(base, options.resample)
    seed = set_seed(options.seed, dataset)
    draws = {
        name: np.array([
            bootstrap_draws(function, row, base.mos, clusters=clusters, draws=options.draws,
                            seed=seed)
            for row in scores
        ])
        for name, (_, function, _) in STATISTICS.items()
    }  # fmt: skip
    values = {
        name: [value_of(row, base.mos) for row in scores]
        for name, (_, _, value_of) in STATISTICS.items()
    }
    fitted = [fit_logistic(row, base.mos, "logistic4").plcc.value for row in scores]
    entries: list[Entry] = []
    first: dict[str, tuple[MetricValue, FloatArray]] = {}
    units = Units.of(len(base), clusters)
    for number_, (method, rows, paired) in enumerate(_rows_of(seeds)):
        metrics: dict[str, Measured] = {}
        differences: dict[str, Measured] = {}
        for name in STATISTICS:
            value = _mean([values[name][row] for row in rows])
            drawn = over_seeds(draws[name][rows], seed, 0 if paired else number_)
            metrics[name] = measure(value, drawn, units.count, options.level)
            if name in first:
                reason = value.reason or first[name][0].reason
                gain = MetricValue(value.value - first[name][0].value, reason)
                drawn = drawn - first[name][1]
                differences[name] = measure(gain, drawn, units.count, options.level)
            else:
                first[name] = (value, drawn)
        plain = float(np.mean([fitted[row] for row in rows]))
        entries.append(Entry(method, len(rows), paired, metrics, differences, plain))
    return SetBoard(dataset, len(base), int((~common).sum()), lacking, units.name, tuple(entries))


def _rows_of(seeds: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, list[int], bool]]:
    """Of each method its name, the rows of its runs, and whether its seeds are the first one's.

    Those runs are in the order of the first one's seeds, so that a place stands for a seed.
    """
    places = {seed: place for place, seed in enumerate(next(iter(seeds.values())))}
    begin = 0
    for method, own in seeds.items():
        rows = list(range(begin, begin + len(own)))
        begin += len(own)
        paired = set(own) == places.keys()
        if paired:
            rows = [row for _, row in sorted(zip(map(places.__getitem__, own), rows, strict=True))]
        yield method, rows, paired


def _mean(values: Sequence[MetricValue]) -> MetricValue:
    reason = next((value.reason for value in values if value.reason), None)
    return MetricValue(float(np.mean([value.value for value in values])), reason)


def over_seeds(draws: FloatArray, seed: int, stream: int = 0) -> FloatArray:
    """[D] means over S seeds drawn with replacement, of [S, D] metrics of resampled images.

    Drawing S of S seeds has (S - 1) / S of the variance between seeds; the deviations from the mean
    over all seeds are stretched by sqrt(S / (S - 1)). One seed has images' variance only.

    Args:
        draws: each seed's metric in each draw.
        seed: of the choice of seeds.
        stream: methods of one stream, which have the same seeds in the same order, choose alike.
    """
    count, number_of_draws = draws.shape
    if count == 1:
        return draws[0]
    # Another stream than that of the resampled images.
    rng = np.random.default_rng((seed, 1 + stream))
    chosen = rng.integers(count, size=(number_of_draws, count))
    drawn = draws[chosen, np.arange(number_of_draws)[:, None]].mean(axis=1)
    middle = draws.mean(axis=0)
    stretched: FloatArray = middle + math.sqrt(count / (count - 1)) * (drawn - middle)
    return stretched


def read_costs(folder: Path) -> dict[str, Cost]:
    """What the finished jobs of a sweep took, by method, from their folders."""
    found: dict[str, list[float]] = {}
    devices: dict[str, str] = {}
    for attempt in SweepFolder(folder).results().values():
        file = attempt.folder / "summary.json"
        if attempt.status != FINISHED or not file.is_file():
            continue
        seconds = json.loads(file.read_text(encoding="utf-8")).get("seconds", math.nan)
        config = flatten(yaml.safe_load((attempt.folder / "config.yaml").read_text("utf-8")))
        name = setting_name(attempt.job.swept)
        processes = int(config["hardware.devices"]) * int(config["hardware.nodes"])
        found.setdefault(name, []).append(float(seconds) * processes)
        devices[name] = str(config["hardware.accelerator"])
    return {name: Cost(float(np.mean(s)), devices[name]) for name, s in found.items()}


def board_tables(
    boards: Sequence[SetBoard], costs: Mapping[str, Cost], options: MetricOptions
) -> list[Table]:
    """A table of each data set: our methods, then published numbers of the same set."""
    return [_table(board, costs, options) for board in boards]


def _table(board: SetBoard, costs: Mapping[str, Cost], options: MetricOptions) -> Table:
    labels = [label for label, _, _ in STATISTICS.values()]
    heads = ("method", "seeds", *(c for label in labels for c in (label, "against the first")))
    rows = [
        (
            entry.method,
            str(entry.seeds),
            *(
                cell
                for name in STATISTICS
                for cell in (_words(entry.metrics[name]), _words(entry.differences.get(name)))
            ),
            number(entry.fitted_plcc),
            "",
            _cost(costs.get(entry.method)),
        )
        for entry in board.entries
    ]
    ours = len(rows)
    for group in published_groups():
        for model in group.models:
            metrics = model.metrics.get(board.dataset)
            if metrics is not None:
                rows.append(_published_row(model, metrics))
    skipped = f", {board.excluded} excluded" if board.excluded else ""
    return Table(
        f"Methods on {board.dataset}: {board.images} images scored by all runs{skipped}",
        (*heads, "PLCC, fitted", "PLCC, other", "cost"),
        tuple(rows),
        f"leaderboard_{board.dataset}",
        (
            f"{options.level:.0%} intervals over {board.units} and, where a method has several, "
            f"over seeds, {options.draws} draws, the same for all methods; means over seeds. "
            "Of two or three seeds such an interval is still too narrow.",
            "PLCC, raw: of scores as they are. PLCC, fitted: after a four-parameter logistic map. "
            "PLCC, other: published, after isotonic regression on the test images, which is never "
            "done here, or of scores of which the source does not state whether a map was fitted.",
            *_unscored_note(board),
            *_unpaired_note(board),
            "Published numbers stand where the set has any; their training sets, splits and "
            "protocols are their own (an evaluation shows each with its source).",
        ),
        (ours,) if len(rows) > ours else (),
    )


def _published_row(model: PublishedModel, metrics: PublishedMetrics) -> tuple[str, ...]:
    """A published model's row: its PLCC in the column of what it is taken of."""
    plcc = number(metrics.plcc)
    raw = plcc if model.plcc_of == "raw" else ""
    fitted = plcc if model.plcc_of == "logistic4" else ""
    other = "" if raw or fitted else f"{plcc} ({PLCC_WORDS[model.plcc_of]})"
    name = f"{model.model} ({model.trained_on})"
    return name, "published", number(metrics.srcc), "", raw, "", fitted, other, ""


def _unscored_note(board: SetBoard) -> list[str]:
    """Which runs took images from all of them, in at most one line."""
    runs = "; ".join(f"{name}: {counted(count, 'image')}" for name, count in board.unscored.items())
    return [f"Excluded for all, since a run has no score of them: {runs}."] if runs else []


def _unpaired_note(board: SetBoard) -> list[str]:
    """Which differences do not pair seeds, in at most one line."""
    unpaired = [entry.method for entry in board.entries if not entry.paired]
    if not unpaired:
        return []
    return [
        f"{'; '.join(unpaired)}: trained with other seeds than the first, so that its difference "
        "pairs images and not seeds."
    ]


def _words(measured: Measured | None) -> str:
    return "" if measured is None else with_interval(measured)


def _cost(cost: Cost | None) -> str:
    if cost is None or not math.isfinite(cost.seconds):
        return "-"
    return f"{cost.seconds:.0f} {cost.device.upper()} s"


def board_values(boards: Sequence[SetBoard], costs: Mapping[str, Cost]) -> dict[str, Any]:
    """The leaderboard as plain values for JSON."""

    def plain(estimates: Mapping[str, Measured]) -> dict[str, list[float | None]]:
        return {
            name: [finite(x) for x in (one.value, one.interval.low, one.interval.high)]
            for name, one in estimates.items()
        }

    return {
        "protocol": "raw scores; plcc_fitted: after logistic4; no isotonic regression",
        "costs": {n: {"seconds": finite(c.seconds), "device": c.device} for n, c in costs.items()},
        "sets": {
            board.dataset: {
                "images": board.images,
                "excluded": board.excluded,
                "unscored": dict(board.unscored),
                "bootstrap_over": [board.units, "seeds"],
                "methods": {
                    entry.method: {
                        "seeds": entry.seeds,
                        "seeds_paired_with_first": entry.paired,
                        **plain(entry.metrics),
                        "plcc_fitted": finite(entry.fitted_plcc),
                        "difference": plain(entry.differences),
                    }
                    for entry in board.entries
                },
            }
            for board in boards
        },
    }


def write_boards(
    boards: Sequence[SetBoard], costs: Mapping[str, Cost], options: MetricOptions, folder: Path
) -> tuple[list[Path], str]:
    """Write `leaderboard.md`, `.json` and a CSV of each set; also gives the Markdown."""
    tables = board_tables(boards, costs, options)
    page = "\n\n".join(to_markdown(table) for table in tables) + "\n"
    files = {"leaderboard.md": page}
    files["leaderboard.json"] = json.dumps(board_values(boards, costs), indent=2) + "\n"
    files |= {f"{table.name}.csv": to_csv(table) for table in tables}
    for name, text in files.items():
        write_file(folder / name, text)
    return [folder / name for name in files], page
