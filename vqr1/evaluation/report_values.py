"""The report of an evaluation as plain values: `metrics.json`, `summary.json`, names for tracking.

What it leaves out: tables (`vqr1.evaluation.report`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from vqr1.evaluation.figures import ReferenceMeans, SetFigures
from vqr1.evaluation.metrics import HEADLINE, Measured
from vqr1.evaluation.report import Evaluation
from vqr1.evaluation.trained_on import TrainedOn


def metric_values(evaluation: Evaluation) -> dict[str, float]:
    """Figures that exist, by tracking name: `eval/<set>/srcc`, `eval/mean/srcc`, ..."""
    values: dict[str, float] = {}
    for figures in evaluation.sets:
        prefix = f"eval/{figures.dataset}"
        values |= {
            f"{prefix}/{name}": m.value for name, m in evaluation.all_figures(figures).items()
        }
        values[f"{prefix}/invalid_rate"] = figures.invalid_rate
        values[f"{prefix}/images"] = float(figures.images)
        values[f"{prefix}/scored"] = float(figures.scored)
        if figures.per_reference is not None:
            per_reference = f"{prefix}/{HEADLINE}_per_reference"
            values[per_reference] = figures.per_reference.srcc.value
            values[f"{prefix}/references"] = float(figures.per_reference.references)
            values[f"{prefix}/references_left_out"] = float(figures.per_reference.left_out)
        if figures.trained_on is not None:
            values[f"{prefix}/trained_on"] = float(figures.trained_on.trained)
    means = evaluation.means
    if means is not None:
        values |= {f"eval/mean/{name}": m.value for name, m in means.plain.items()}
        values["eval/mean/sets"] = float(len(means.sets))
    return {name: value for name, value in values.items() if math.isfinite(value)}


def json_values(evaluation: Evaluation) -> dict[str, Any]:
    """Contents of `metrics.json`: every figure with interval and reason; null where it is NaN."""
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
        "sets": {figures.dataset: _set_values(evaluation, figures) for figures in evaluation.sets},
        "mean_over": None if means is None else list(means.sets),
        "mean": None if means is None else _measured_values(means.plain),
        "mean_size_weighted": None if means is None else _measured_values(means.weighted),
    }


def with_skipped(figures: SetFigures, count: int) -> SetFigures:
    """The figures, warning of `count` images of the set that could not be judged."""
    warning = f"{count} images were left out: missing, empty or not decodable"
    return with_warning(figures, warning if count else None)


def with_trained_on(figures: SetFigures, trained_on: TrainedOn | None) -> SetFigures:
    """The figures of a set with how many of its images the model was trained on."""
    return replace(figures, trained_on=trained_on)


def with_warning(figures: SetFigures, warning: str | None) -> SetFigures:
    """The figures with a further warning, where there is one."""
    return replace(figures, warnings=(*figures.warnings, warning)) if warning else figures


def summary_values(
    evaluation: Evaluation, headline: Measured, skipped: Mapping[str, int]
) -> dict[str, Any]:
    """What `summary.json` says of the figures.

    Args:
        evaluation: all figures.
        headline: the metric that the evaluation stands for.
        skipped: by set, images that were left out since they cannot be read.
    """
    return {
        HEADLINE: finite(headline.value),
        f"{HEADLINE}_interval": [finite(headline.interval.low), finite(headline.interval.high)],
        "sets": {
            figures.dataset: {
                **{name: finite(found.value) for name, found in figures.metrics.items()},
                "images": figures.images,
                "scored": figures.scored,
                "invalid_rate": finite(figures.invalid_rate),
                "per_reference": _reference_summary(figures.per_reference),
                "trained_on": None if figures.trained_on is None else figures.trained_on.values(),
                "warnings": list(figures.warnings),
            }
            for figures in evaluation.sets
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
        "left_out": means.left_out,
        "reasons": dict(means.reasons),
    }


def _set_values(evaluation: Evaluation, figures: SetFigures) -> dict[str, Any]:
    reference = figures.per_reference
    return {
        "images": figures.images,
        "scored": figures.scored,
        "answers": figures.answers,
        "invalid_answers": figures.invalid,
        "invalid_rate": finite(figures.invalid_rate),
        "well_formed_rate": finite(figures.well_formed_rate),
        "score_std": finite(figures.score_std),
        "score_std_images": figures.score_std_images,
        "trained_on": None if figures.trained_on is None else figures.trained_on.values(),
        "lost_probability": None if figures.lost is None else asdict(figures.lost),
        "bootstrap_over": figures.units,
        "bootstrap_units": figures.unit_count,
        **_measured_values(evaluation.all_figures(figures)),
        "fits": {
            curve: {
                "parameters": [finite(value) for value in fit.fit.parameters],
                "starting_points": fit.fit.starts,
                "converged": fit.fit.converged,
                "reason": fit.fit.reason,
            }
            for curve, fit in figures.fits.items()
        },
        "per_reference": None
        if reference is None
        else {
            "references": reference.references,
            "left_out": reference.left_out,
            "reasons": dict(reference.reasons),
            **_measured_values(reference.metrics),
        },
        "distortions": {
            row.name: {
                "images": row.images,
                "left_out": row.total - row.images,
                **{name: finite(found.value) for name, found in row.metrics.items()},
                "reason": row.srcc.reason,
            }
            for row in figures.distortions
        },
        "calibration": {
            "images": figures.calibration.images,
            "left_out": figures.images - figures.calibration.images,
            "srcc_spread_error": finite(figures.calibration.srcc.value),
            "reason": figures.calibration.srcc.reason,
            "bins": [
                {
                    "images": part.images,
                    "spread": finite(part.spread),
                    "rmse": finite(part.rmse),
                }
                for part in figures.calibration.bins
            ],
        },
        "warnings": list(figures.warnings),
    }


def _measured_values(values: Mapping[str, Measured]) -> dict[str, Any]:
    return {
        name: {
            "value": finite(m.value),
            "low": finite(m.interval.low),
            "high": finite(m.interval.high),
            "reason": m.reason or m.interval.reason,
            "draws": m.interval.draws,
            "draws_left_out": m.interval.lost,
        }
        for name, m in values.items()
    }


def finite(value: float) -> float | None:
    """The value, or None for NaN and infinities, which JSON cannot hold."""
    return value if math.isfinite(value) else None
