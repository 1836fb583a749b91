"""Every metric of one data set: correlations, fits, errors, and what is known of its groups.

What it does: takes the predictions of ONE set and computes each metric with its bootstrap interval
and, where it does not exist, the reason. A set whose predictions fall while its MOS rise
is flagged and keeps its negative sign.

Not here: which metrics there are (`vqr1.evaluation.metrics`), metrics among the images of a
reference or a distortion (`group_metrics.py`), means over sets
(`vqr1.evaluation.dataset_averages`), tables and plots.

Shape legend: n images with a score, D bootstrap draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vqr1.evaluation.calibration import Calibration, calibrate
from vqr1.evaluation.group_metrics import (
    DistortionRow,
    ReferenceMeans,
    distortion_rows,
    reference_means,
)
from vqr1.evaluation.metric_options import MetricOptions
from vqr1.evaluation.metrics import (
    FITTED,
    HEADLINE,
    FittedMetric,
    Measured,
    MetricInputs,
    measure,
)
from vqr1.evaluation.predictions import (
    Predictions,
    bootstrap_clusters,
)
from vqr1.evaluation.preferences import PreferenceReport, preference_report
from vqr1.evaluation.summary import scored_rows, set_seed
from vqr1.evaluation.trained_on import TrainedOn
from vqr1.iqa.bootstrap import Units, resample_counts
from vqr1.iqa.correlation import FloatArray
from vqr1.iqa.logistic import Curve, LogisticFit, fit_logistic
from vqr1.iqa.logistic_draws import fit_draws


@dataclass(frozen=True)
class FitMetrics:
    """Metrics after a logistic map, by name."""

    fit: LogisticFit
    metrics: Mapping[str, Measured]


@dataclass(frozen=True)
class LostProbability:
    """Probability of answers that are no number, of the images where it is known.

    Attributes:
        images: how many they are.
        mean: mean over them, in [0, 1].
        highest: of one of them.
    """

    images: int
    mean: float
    highest: float


@dataclass(frozen=True)
class SetMetrics:
    """All metrics of one data set.

    Attributes:
        dataset: its name.
        images: all images.
        scored: images with a score: those that enter the metrics.
        answers: answers asked for.
        invalid: answers that could not be parsed.
        format_compliance_rate: format-compliant answers / all answers.
        score_std: mean standard deviation of an image's valid answers; NaN with one answer.
        score_std_images: images with two valid answers or more: those that enter `score_std`.
        lost: mode `expected`: probability of answers over which no expectation is taken; None in
            other modes.
        units: what the bootstrap drew, "images" or "references".
        unit_count: how many of them.
        metrics: by name, those of the scores as they are.
        fits: metrics after each logistic map.
        per_reference: means over references; None where images share none.
        distortions: one row a distortion, worst SRCC first; empty where unknown.
        calibration: whether the answers' standard deviation predicts the error.
        warnings: what a reader must know before using the metrics.
        draws: D bootstrap draws of each metric by name, for means over sets.
        trained_on: how many of the images the model was trained on; None where that is unknown.
        preferences: of stated pairs; None where they are not evaluated.
    """

    dataset: str
    images: int
    scored: int
    answers: int
    invalid: int
    format_compliance_rate: float
    score_std: float
    score_std_images: int
    lost: LostProbability | None
    units: str
    unit_count: int
    metrics: dict[str, Measured]
    fits: dict[Curve, FitMetrics]
    per_reference: ReferenceMeans | None
    distortions: tuple[DistortionRow, ...]
    calibration: Calibration
    warnings: tuple[str, ...]
    draws: dict[str, FloatArray] = field(repr=False)
    trained_on: TrainedOn | None = None
    preferences: PreferenceReport | None = None

    @property
    def srcc(self) -> Measured:
        """The headline."""
        return self.metrics[HEADLINE]

    @property
    def invalid_rate(self) -> float:
        """Answers that could not be parsed / all answers."""
        return self.invalid / self.answers if self.answers else math.nan


def set_metrics(predictions: Predictions, options: MetricOptions) -> SetMetrics:
    """Metrics of one data set.

    Args:
        predictions: rows of one set.
        options: how metrics are computed.

    Raises:
        ValueError: the rows belong to more than one set.
    """
    if len(set(predictions.datasets)) != 1:
        raise ValueError(f"one data set expected, found {sorted(set(predictions.datasets))}")
    dataset = predictions.datasets[0]
    scored, scores = scored_rows(predictions, options.rule)
    clusters, note = bootstrap_clusters(scored, options.resample)
    units = Units.of(len(scored), clusters)
    seed = set_seed(options.seed, dataset)
    inputs = MetricInputs(scores, scored.mos, scored.std, scored.row_pairs())
    measured, draws = _unfitted(inputs, clusters, units, seed, options)
    fits = {}
    for curve in options.curves:
        fits[curve], drawn = _fitted(scores, scored.mos, units, seed, curve, options)
        draws |= drawn
    main_fit = fits[options.curves[0]].fit if options.curves else None
    std = predictions.score_std()
    return SetMetrics(
        dataset=dataset,
        images=len(predictions),
        scored=len(scored),
        answers=predictions.valid.size,
        invalid=int(predictions.valid.size - predictions.valid.sum()),
        format_compliance_rate=float(predictions.format_compliant.mean()),
        score_std=float(np.nanmean(std)) if np.isfinite(std).any() else math.nan,
        score_std_images=int(np.isfinite(std).sum()),
        lost=_lost(predictions),
        units=units.name,
        unit_count=units.count,
        metrics=measured,
        fits=fits,
        per_reference=reference_means(predictions, seed, options),
        distortions=distortion_rows(predictions, options),
        calibration=calibrate(scored, scores, main_fit),
        warnings=_warnings(predictions, len(scored), measured[HEADLINE], note),
        draws=draws,
        preferences=preference_report(predictions, options.rule),
    )


def _lost(predictions: Predictions) -> LostProbability | None:
    known = predictions.lost[np.isfinite(predictions.lost)]
    if not len(known):
        return None
    return LostProbability(len(known), float(known.mean()), float(known.max()))


def _unfitted(
    inputs: MetricInputs,
    clusters: Sequence[object] | None,
    units: Units,
    seed: int,
    options: MetricOptions,
) -> tuple[dict[str, Measured], dict[str, FloatArray]]:
    measured, draws = {}, {}
    for metric in options.metrics:
        name = metric.name
        draws[name] = metric.draws(inputs, options.draws, seed, clusters)
        result = metric.value(inputs)
        measured[name] = measure(result, draws[name], units.count, options.level)
    return measured, draws


def _fitted(
    scores: FloatArray,
    mos: FloatArray,
    units: Units,
    seed: int,
    curve: Curve,
    options: MetricOptions,
) -> tuple[FitMetrics, dict[str, FloatArray]]:
    """Metrics after a fit, refitted in every draw, and their draws."""
    fit = fit_logistic(scores, mos, curve)
    metrics = [metric for metric in FITTED if metric.curve == curve]
    if fit.reason:
        draws = {metric.name: np.full(options.draws, np.nan) for metric in metrics}
    else:
        draws = _fit_draws(scores, mos, units, seed, fit, options.draws, metrics)
    measured = {
        metric.name: measure(metric.read(fit), draws[metric.name], units.count, options.level)
        for metric in metrics
    }
    return FitMetrics(fit, measured), draws


def _fit_draws(
    scores: FloatArray,
    mos: FloatArray,
    units: Units,
    seed: int,
    fit: LogisticFit,
    draws: int,
    metrics: Sequence[FittedMetric],
) -> dict[str, FloatArray]:
    values: dict[str, list[float]] = {metric.name: [] for metric in metrics}
    for block in resample_counts(units, draws, seed):
        for refit in fit_draws(scores, mos, block, fit):
            for metric in metrics:
                values[metric.name].append(metric.read(refit).value)
    return {name: np.asarray(found) for name, found in values.items()}


def _warnings(
    predictions: Predictions, scored: int, srcc_: Measured, note: str | None
) -> tuple[str, ...]:
    found = []
    if srcc_.reason:
        found.append(f"no metrics: {srcc_.reason}")
    elif srcc_.value < 0:
        found.append(
            f"SRCC is {srcc_.value:.3f}: predictions fall as MOS rise. Check the "
            "direction of the labels (lower_is_better) and of the scores"
        )
    if scored < len(predictions):
        found.append(
            f"{len(predictions) - scored} of {len(predictions)} images have no score and are left "
            "out of every metric"
        )
    unnamed = sum(name is None for name in predictions.references)
    if 0 < unnamed < len(predictions):
        found.append(
            f"no means per reference: {unnamed} of {len(predictions)} images have no reference"
        )
    reduced = sum(size is not None for size in predictions.decoded_at)
    if reduced:
        found.append(
            f"{reduced} of {len(predictions)} images have too many pixels, were decoded smaller: "
            "decoded_at in the predictions"
        )
    if note:
        found.append(note)
    return tuple(found)
