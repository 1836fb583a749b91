"""A comparison of evaluations as tables and as plain values.

Not here: the comparison itself (`vqr1.evaluation.compare`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from vqr1.counted import counted
from vqr1.evaluation.compare import EvaluatedRun, SetComparison
from vqr1.evaluation.metric_options import MetricOptions
from vqr1.evaluation.metrics import HEADLINE, Measured, headline
from vqr1.evaluation.report import TRAINED, number, with_interval
from vqr1.evaluation.report_values import finite
from vqr1.evaluation.tables import Table


def comparison_tables(
    comparisons: Sequence[SetComparison], options: MetricOptions, runs: Sequence[EvaluatedRun]
) -> list[Table]:
    """For each set a table of the runs with letters, and one of the pairs."""
    tables, label = [], headline(options.metrics).label
    modes = tuple(f"{run.name}: {run.caption}" for run in runs if run.caption)
    for found in comparisons:
        caption = f"{found.dataset}, {counted(found.images, 'image')} scored by all runs"
        if found.excluded:
            why = ", ".join(
                f"{count} without a score from {name}"
                for name, count in zip(found.names, found.unscored, strict=True)
                if count
            )
            caption += f" of {found.images + found.excluded} ({found.excluded} excluded: {why})"
        seen = {r.name: r.trained_on[found.dataset] for r in runs if found.dataset in r.trained_on}
        trained = tuple(f"{name}{TRAINED}: {text}" for name, text in seen.items())
        tables.append(
            Table(
                f"{label} by run. {caption}",
                ("run", label, "group"),
                tuple(
                    (f"{name}{TRAINED if name in seen else ''}", with_interval(metric), letters)
                    for name, metric, letters in zip(
                        found.names, found.metrics, found.letters, strict=True
                    )
                ),
                f"comparison_{found.dataset}",
                (
                    f"runs that share a letter do not differ at {1 - options.level:.0%} (paired "
                    f"bootstrap over {found.units}, Holm's correction for {len(found.pairs)} "
                    "pairs)",
                    *_undefined(found, label),
                    *trained,
                    *modes,
                ),
            )
        )
        tables.append(
            Table(
                f"{label} differences. {caption}",
                ("pair", "difference", "p, bootstrap", "p, Holm", "p, Steiger", "p, Meng", "wins"),
                tuple(
                    (
                        f"{pair.first} - {pair.second}",
                        with_interval(Measured(pair.gain.gain.value, pair.gain.interval)),
                        _probability(pair.gain.p),
                        _probability(pair.adjusted),
                        _probability(pair.steiger.p),
                        _probability(pair.meng.p),
                        number(pair.wins.win_rate.value),
                    )
                    for pair in found.pairs
                ),
                f"pairs_{found.dataset}",
                (
                    "Steiger's and Meng's tests take images as independent",
                    "wins: among image pairs that the two runs order differently well, the share "
                    "that the first one orders better",
                    *_undefined(found, f"difference of {label} to it"),
                    *_lost_draws(found),
                    *trained,
                    *modes,
                ),
            )
        )
    return tables


def _undefined(found: SetComparison, what: str) -> list[str]:
    """Why runs have no metric, one line each."""
    return [
        f"{name}: no {what}: {metric.reason}"
        for name, metric in zip(found.names, found.metrics, strict=True)
        if metric.reason
    ]


def _lost_draws(found: SetComparison) -> list[str]:
    """Draws that the intervals of differences are not over."""
    return [
        f"{pair.first} - {pair.second}: {interval.lost} of {interval.draws} bootstrap draws have "
        "no difference and are excluded from its interval"
        for pair in found.pairs
        if (interval := pair.gain.interval).lost
    ]


def _probability(p: float) -> str:
    return "nan" if math.isnan(p) else "<.0001" if p < 1e-4 else f"{p:.4f}"


def comparison_values(comparisons: Sequence[SetComparison]) -> dict[str, object]:
    """Contents of `metrics.json` of a comparison."""
    return {
        found.dataset: {
            "images": found.images,
            "excluded": found.excluded,
            "unscored": dict(zip(found.names, found.unscored, strict=True)),
            "bootstrap_over": found.units,
            "runs": {
                name: {
                    HEADLINE: finite(f.value),
                    "low": finite(f.interval.low),
                    "high": finite(f.interval.high),
                    "group": letters,
                    **({"reason": f.reason} if f.reason else {}),
                }
                for name, f, letters in zip(found.names, found.metrics, found.letters, strict=True)
            },
            "pairs": [
                {
                    "first": pair.first,
                    "second": pair.second,
                    f"{HEADLINE}_difference": finite(pair.gain.gain.value),
                    "low": finite(pair.gain.interval.low),
                    "high": finite(pair.gain.interval.high),
                    "draws_excluded": pair.gain.interval.lost,
                    "p_bootstrap": finite(pair.gain.p),
                    "p_holm": finite(pair.adjusted),
                    "p_steiger": finite(pair.steiger.p),
                    "p_meng": finite(pair.meng.p),
                    "win_rate": finite(pair.wins.win_rate.value),
                }
                for pair in found.pairs
            ],
        }
        for found in comparisons
    }
