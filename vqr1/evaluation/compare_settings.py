"""Comparing the settings of a sweep on test images that all of its runs predicted.

A setting's SRCC is the mean over its seeds' SRCC. Its interval, and that of its difference to the
first setting, are over images (or references): every run of the sweep sees the same draws, so that
what makes a draw easy for all cancels in the difference. How much seeds differ an interval over
images cannot know; the standard deviation over seeds stands beside it, and the sweep's own summary
tests over seeds.

Not here: reading a sweep's predictions (`vqr1.sweeps.predictions`), and comparing runs one by one
(`vqr1.evaluation.compare`).

Shape legend: n images, D bootstrap draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vqr1.evaluation.compare import EvaluatedRun, aligned_parts, sets_of
from vqr1.evaluation.metric_options import MetricOptions
from vqr1.evaluation.metrics import Measured, measure
from vqr1.evaluation.predictions import Predictions, bootstrap_clusters
from vqr1.evaluation.report import number, with_interval
from vqr1.evaluation.report_values import finite
from vqr1.evaluation.summary import set_seed
from vqr1.evaluation.tables import Table
from vqr1.iqa.bootstrap import Units, bootstrap_draws
from vqr1.iqa.correlation import FloatArray, MetricValue, srcc, srcc_value


@dataclass(frozen=True)
class SettingResult:
    """One setting on one data set.

    Attributes:
        name: swept values without the seed.
        by_seed: SRCC of each of its runs, by seed.
        mean: their mean with its interval over images.
        difference: mean minus that of the first setting; None for the first one.
    """

    name: str
    by_seed: Mapping[str, float]
    mean: Measured
    difference: Measured | None

    @property
    def std(self) -> float:
        """Standard deviation over seeds; NaN for one."""
        values = list(self.by_seed.values())
        return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


@dataclass(frozen=True)
class SettingsComparison:
    """All settings on one data set.

    Attributes:
        dataset: its name.
        images: images with a score from every run.
        excluded: images without a score from some run.
        units: what the bootstrap drew.
        settings: in the order of the sweep's jobs.
    """

    dataset: str
    images: int
    excluded: int
    units: str
    settings: tuple[SettingResult, ...]


def compare_settings(
    settings: Mapping[str, Mapping[str, Predictions]], options: MetricOptions
) -> list[SettingsComparison]:
    """Compare the settings of a sweep on every data set.

    Args:
        settings: by swept values, then by seed, the predictions of a run; the first setting is
            what the others are compared with.
        options: how metrics are computed.

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
    return [
        _compare_set(name, runs, [part[name] for part in parts], seeds, options)
        for name in parts[0]
    ]


def _compare_set(
    dataset: str,
    runs: Sequence[EvaluatedRun],
    parts: Sequence[Predictions],
    seeds: Mapping[str, Sequence[str]],
    options: MetricOptions,
) -> SettingsComparison:
    aligned = aligned_parts(dataset, runs, parts)
    scores = np.stack([part.image_scores(options.rule) for part in aligned])
    common = np.all(np.isfinite(scores), axis=0)
    base, scores = aligned[0].rows(common), scores[:, common]
    clusters, _ = bootstrap_clusters(base, options.resample)
    units = Units.of(len(base), clusters)
    seed = set_seed(options.seed, dataset)
    values = [srcc_value(row, base.mos) for row in scores]
    draws = [
        bootstrap_draws(srcc, row, base.mos, clusters=clusters, draws=options.draws, seed=seed)
        for row in scores
    ]
    results: list[SettingResult] = []
    first: tuple[MetricValue, FloatArray] | None = None
    begin = 0
    for name, of_setting in seeds.items():
        rows = slice(begin, begin + len(of_setting))
        begin = rows.stop
        mean, drawn = _mean(values[rows]), np.mean(draws[rows], axis=0)
        gain = None
        if first is not None:
            reason = mean.reason or first[0].reason
            gain = measure(
                MetricValue(mean.value - first[0].value, reason),
                drawn - first[1], units.count, options.level,
            )  # fmt: skip
        first = first or (mean, drawn)
        results.append(
            SettingResult(
                name,
                {s: metric.value for s, metric in zip(of_setting, values[rows], strict=True)},
                measure(mean, drawn, units.count, options.level),
                gain,
            )
        )
    return SettingsComparison(dataset, len(base), int((~common).sum()), units.name, tuple(results))


def _mean(metrics: Sequence[MetricValue]) -> MetricValue:
    reason = next((metric.reason for metric in metrics if metric.reason), None)
    return MetricValue(float(np.mean([metric.value for metric in metrics])), reason)


def settings_tables(found: Sequence[SettingsComparison], options: MetricOptions) -> list[Table]:
    """A table of each data set."""
    return [
        Table(
            f"SRCC by setting. {one.dataset}, {one.images} images scored by all runs of the sweep"
            + (f" ({one.excluded} excluded)" if one.excluded else ""),
            ("setting", "seeds", "SRCC", "std over seeds", "difference to the first"),
            tuple(
                (
                    row.name,
                    str(len(row.by_seed)),
                    with_interval(row.mean),
                    number(row.std),
                    "" if row.difference is None else with_interval(row.difference),
                )
                for row in one.settings
            ),
            f"settings_{one.dataset}",
            (
                f"{options.level:.0%} intervals over {one.units}, the same draws for all runs; how "
                "much seeds differ they do not know",
                *(
                    f"{row.name}: no SRCC: {row.mean.reason}"
                    for row in one.settings
                    if row.mean.reason
                ),
            ),
        )
        for one in found
    ]


def settings_values(found: Sequence[SettingsComparison]) -> dict[str, object]:
    """Contents of `metrics.json`."""
    return {
        one.dataset: {
            "images": one.images,
            "excluded": one.excluded,
            "bootstrap_over": one.units,
            "settings": {
                row.name: {
                    "srcc": _values(row.mean),
                    "std_over_seeds": finite(row.std),
                    "by_seed": {seed: finite(value) for seed, value in row.by_seed.items()},
                    "difference": None if row.difference is None else _values(row.difference),
                }
                for row in one.settings
            },
        }
        for one in found
    }


def _values(measured: Measured) -> dict[str, float | None]:
    low, high = measured.interval.low, measured.interval.high
    return {"value": finite(measured.value), "low": finite(low), "high": finite(high)}
