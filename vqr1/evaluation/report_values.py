"""The report of an evaluation as plain values: `metrics.json`, `summary.json`, names for tracking.

Not here: tables (`vqr1.evaluation.report`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from vqr1.counted import counted_are
from vqr1.evaluation.group_metrics import ReferenceMeans
from vqr1.evaluation.metrics import HEADLINE, Measured
from vqr1.evaluation.report import Evaluation
from vqr1.evaluation.set_metrics import SetMetrics
from vqr1.evaluation.trained_on import TrainedOn


def metric_values(evaluation: Evaluation) -> dict[str, float]:
    """Metrics that exist, by tracking name: `eval/<set>/srcc`, `eval/mean/srcc`, ..."""
    values: dict[str, float] = {}
    for metrics in evaluation.sets:
        prefix = f"eval/{metrics.dataset}"
        values |= {
            f"{prefix}/{name}": m.value for name, m in evaluation.all_metrics(metrics).items()
        }
        values[f"{prefix}/invalid_rate"] = metrics.invalid_rate
        values[f"{prefix}/images"] = float(metrics.images)
        values[f"{prefix}/scored"] = float(metrics.scored)
        if metrics.per_reference is not None:
            per_reference = f"{prefix}/{HEADLINE}_per_reference"
            values[per_reference] = metrics.per_reference.srcc.value
            values[f"{prefix}/references"] = float(metrics.per_reference.references)
            values[f"{prefix}/references_excluded"] = float(metrics.per_reference.excluded)
        if metrics.trained_on is not None:
            values[f"{prefix}/trained_on"] = float(metrics.trained_on.trained)
        if metrics.preferences is not None:
            values[f"{prefix}/pairs"] = float(metrics.preferences.pairs)
            if metrics.preferences.likelihood is not None:
                likelihood = metrics.preferences.likelihood.published
                values[f"{prefix}/pair_log_likelihood"] = likelihood
            values[f"{prefix}/pair_cycles"] = float(metrics.preferences.cycles)
    means = evaluation.means
    if means is not None:
        values |= {f"eval/mean/{name}": m.value for name, m in means.plain.items()}
        values["eval/mean/sets"] = float(len(means.sets))
    return {name: value for name, value in values.items() if math.isfinite(value)}


def json_values(evaluation: Evaluation) -> dict[str, Any]:
    """Contents of `metrics.json`: every metric with interval and reason; null where it is NaN."""
    options = evaluation.options
    means = evaluation.means
    return {
        "caption": evaluation.caption,
        "options": {
            "score_rule": options.rule,
            "curves": list(options.curves),
            "bootstrap_draws": options.draws,
            "level": options.level,
            "seed": options.seed,
        },
        "sets": {metrics.dataset: _set_values(evaluation, metrics) for metrics in evaluation.sets},
        "mean_over": None if means is None else list(means.sets),
        "mean": None if means is None else _measured_values(means.plain),
        "mean_size_weighted": None if means is None else _measured_values(means.weighted),
    }


def with_skipped(metrics: SetMetrics, count: int) -> SetMetrics:
    """The metrics, warning of `count` images of the set that could not be evaluated."""
    warning = f"{counted_are(count, 'image', past=True)} excluded: missing, empty or not decodable"
    return with_warning(metrics, warning if count else None)


def with_trained_on(metrics: SetMetrics, trained_on: TrainedOn | None) -> SetMetrics:
    """The metrics of a set with how many of its images the model was trained on."""
    return replace(metrics, trained_on=trained_on)


def with_warning(metrics: SetMetrics, warning: str | None) -> SetMetrics:
    """The metrics with a further warning, where there is one."""
    return replace(metrics, warnings=(*metrics.warnings, warning)) if warning else metrics


def summary_values(
    evaluation: Evaluation, headline: Measured, skipped: Mapping[str, int]
) -> dict[str, Any]:
    """What `summary.json` states of the metrics.

    Args:
        evaluation: all metrics.
        headline: the metric that the evaluation stands for.
        skipped: by set, images that were excluded since they cannot be read.
    """
    return {
        HEADLINE: finite(headline.value),
        f"{HEADLINE}_interval": [finite(headline.interval.low), finite(headline.interval.high)],
        "sets": {
            metrics.dataset: {
                **{name: finite(found.value) for name, found in metrics.metrics.items()},
                "images": metrics.images,
                "scored": metrics.scored,
                "invalid_rate": finite(metrics.invalid_rate),
                "per_reference": _reference_summary(metrics.per_reference),
                "trained_on": None if metrics.trained_on is None else metrics.trained_on.values(),
                **({} if metrics.preferences is None else {"pairs": metrics.preferences.values()}),
                "warnings": list(metrics.warnings),
            }
            for metrics in evaluation.sets
        },
        "skipped": dict(skipped),
        "caption": evaluation.caption,
    }


def _reference_summary(means: ReferenceMeans | None) -> dict[str, Any] | None:
    if means is None:
        return None
    return {
        HEADLINE: finite(means.srcc.value),
        "references": means.references,
        "excluded": means.excluded,
        "reasons": dict(means.reasons),
    }


def _set_values(evaluation: Evaluation, metrics: SetMetrics) -> dict[str, Any]:
    reference = metrics.per_reference
    return {
        "images": metrics.images,
        "scored": metrics.scored,
        "answers": metrics.answers,
        "invalid_answers": metrics.invalid,
        "invalid_rate": finite(metrics.invalid_rate),
        "format_compliance_rate": finite(metrics.format_compliance_rate),
        "score_std": finite(metrics.score_std),
        "score_std_images": metrics.score_std_images,
        "trained_on": None if metrics.trained_on is None else metrics.trained_on.values(),
        "lost_probability": None if metrics.lost is None else asdict(metrics.lost),
        "bootstrap_over": metrics.units,
        "bootstrap_units": metrics.unit_count,
        **_measured_values(evaluation.all_metrics(metrics)),
        "fits": {
            curve: {
                "parameters": [finite(value) for value in fit.fit.parameters],
                "starting_points": fit.fit.starts,
                "converged": fit.fit.converged,
                "reason": fit.fit.reason,
            }
            for curve, fit in metrics.fits.items()
        },
        "per_reference": None
        if reference is None
        else {
            "references": reference.references,
            "excluded": reference.excluded,
            "reasons": dict(reference.reasons),
            **_measured_values(reference.metrics),
        },
        "distortions": {
            row.name: {
                "images": row.images,
                "excluded": row.total - row.images,
                **{name: finite(found.value) for name, found in row.metrics.items()},
                "reason": row.srcc.reason,
            }
            for row in metrics.distortions
        },
        "calibration": {
            "images": metrics.calibration.images,
            "excluded": metrics.images - metrics.calibration.images,
            "srcc_spread_error": finite(metrics.calibration.srcc.value),
            "reason": metrics.calibration.srcc.reason,
            "bins": [
                {
                    "images": part.images,
                    "std": finite(part.std),
                    "rmse": finite(part.rmse),
                }
                for part in metrics.calibration.bins
            ],
        },
        **({} if metrics.preferences is None else {"pairs": metrics.preferences.values()}),
        "warnings": list(metrics.warnings),
    }


def _measured_values(values: Mapping[str, Measured]) -> dict[str, Any]:
    return {
        name: {
            "value": finite(m.value),
            "low": finite(m.interval.low),
            "high": finite(m.interval.high),
            "reason": m.reason or m.interval.reason,
            "draws": m.interval.draws,
            "draws_excluded": m.interval.lost,
        }
        for name, m in values.items()
    }


def finite(value: float) -> float | None:
    """The value, or None for NaN and infinities, which JSON cannot hold."""
    return value if math.isfinite(value) else None
