"""Every figure of one data set: correlations, fits, errors, per-reference means, distortions.

What it does: takes the predictions of ONE set and computes each figure with its bootstrap interval
and, where it does not exist, the reason. A set whose predictions fall while its opinion scores rise
is flagged and keeps its negative sign.

What it leaves out: means over sets (`vqr1.evaluation.means`), tables and plots.

Shape legend: n images with a score, D bootstrap draws, R references.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vqr1.evaluation.calibration import Calibration, calibrate
from vqr1.evaluation.predictions import (
    Predictions,
    Resample,
    ScoreRule,
    bootstrap_clusters,
)
from vqr1.evaluation.summary import CORRELATIONS, scored_rows, set_seed
from vqr1.evaluation.trained_on import TrainedOn
from vqr1.iqa.bootstrap import (
    Interval,
    Units,
    bootstrap_draws,
    interval_of_draws,
    resample_counts,
)
from vqr1.iqa.correlation import MIN_PAIRS, Figure, FloatArray
from vqr1.iqa.logistic import Curve, LogisticFit, fit_logistic


@dataclass(frozen=True)
class FigureOptions:
    """How figures are computed.

    Attributes:
        curves: logistic maps to fit; the first is the one of plots and calibration.
        rule: which images have a score.
        resample: what the bootstrap draws; `auto` takes references where at least five are shared
            by images, else images.
        draws: D; 0 computes no intervals.
        level: confidence level.
        seed: seed of the draws.
    """

    curves: tuple[Curve, ...] = ("logistic4", "logistic5")
    rule: ScoreRule = "valid_mean"
    resample: Resample = "auto"
    draws: int = 1000
    level: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class Measured:
    """A figure with its interval.

    Attributes:
        value: the figure; NaN where it does not exist.
        interval: its confidence interval; NaN with a reason where there is none.
        reason: why the figure does not exist; None where it does.
    """

    value: float
    interval: Interval
    reason: str | None = None


@dataclass(frozen=True)
class FitFigures:
    """PLCC and RMSE after a logistic map; RMSE in the units of the opinion scores."""

    fit: LogisticFit
    plcc: Measured
    rmse: Measured


@dataclass(frozen=True)
class ReferenceMeans:
    """Correlations within each reference, averaged over the references.

    Attributes:
        references: R, the references that enter.
        left_out: references without a correlation.
        reasons: how many of them by the reason why there is none.
        srcc: mean of the references' SRCC, its interval over references.
        krcc: the same of KRCC.
        plcc: the same of PLCC.
    """

    references: int
    left_out: int
    reasons: Mapping[str, int]
    srcc: Measured
    krcc: Measured
    plcc: Measured

    @property
    def total(self) -> int:
        """All references of the set."""
        return self.references + self.left_out


@dataclass(frozen=True)
class DistortionRow:
    """Correlations among the images of one distortion.

    Attributes:
        name: the distortion.
        images: its images with a score: those that enter.
        total: all its images.
        srcc, krcc, plcc: the correlations.
    """

    name: str
    images: int
    total: int
    srcc: Figure
    krcc: Figure
    plcc: Figure


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
class SetFigures:
    """All figures of one data set.

    Attributes:
        dataset: its name.
        images: all images.
        scored: images with a score: those that enter the figures.
        answers: answers asked for.
        invalid: answers that could not be parsed.
        well_formed_rate: answers of the demanded format / all answers.
        score_std: mean standard deviation of an image's valid answers; NaN with one answer.
        score_std_images: images with two valid answers or more: those that enter `score_std`.
        lost: mode `expected`: probability of answers over which no expectation is taken; None in
            other modes.
        units: what the bootstrap drew, "images" or "references".
        unit_count: how many of them.
        srcc, krcc, plcc: correlations without a fit.
        fits: figures after each logistic map.
        per_reference: means over references; None where images share none.
        distortions: one row a distortion, worst SRCC first; empty where unknown.
        calibration: whether the answers' spread predicts the error.
        warnings: what a reader must know before using the figures.
        draws: D bootstrap draws of each figure by name, for means over sets.
        trained_on: how many of the images the model was trained on; None where that is unknown.
    """

    dataset: str
    images: int
    scored: int
    answers: int
    invalid: int
    well_formed_rate: float
    score_std: float
    score_std_images: int
    lost: LostProbability | None
    units: str
    unit_count: int
    srcc: Measured
    krcc: Measured
    plcc: Measured
    fits: dict[Curve, FitFigures]
    per_reference: ReferenceMeans | None
    distortions: tuple[DistortionRow, ...]
    calibration: Calibration
    warnings: tuple[str, ...]
    draws: dict[str, FloatArray] = field(repr=False)
    trained_on: TrainedOn | None = None

    @property
    def invalid_rate(self) -> float:
        """Answers that could not be parsed / all answers."""
        return self.invalid / self.answers if self.answers else math.nan


def set_figures(predictions: Predictions, options: FigureOptions) -> SetFigures:
    """Figures of one data set.

    Args:
        predictions: rows of one set.
        options: how figures are computed.

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
    measured, draws = _correlations(scores, scored.mos, clusters, units, seed, options)
    fits = {}
    for curve in options.curves:
        fits[curve], drawn = _fitted(scores, scored.mos, units, seed, curve, options)
        draws |= {f"plcc_{curve}": drawn[0], f"rmse_{curve}": drawn[1]}
    main_fit = fits[options.curves[0]].fit if options.curves else None
    spread = predictions.score_std()
    return SetFigures(
        dataset=dataset,
        images=len(predictions),
        scored=len(scored),
        answers=predictions.valid.size,
        invalid=int(predictions.valid.size - predictions.valid.sum()),
        well_formed_rate=float(predictions.well_formed.mean()),
        score_std=float(np.nanmean(spread)) if np.isfinite(spread).any() else math.nan,
        score_std_images=int(np.isfinite(spread).sum()),
        lost=_lost(predictions),
        units=units.name,
        unit_count=units.count,
        srcc=measured["srcc"],
        krcc=measured["krcc"],
        plcc=measured["plcc"],
        fits=fits,
        per_reference=_reference_means(predictions, seed, options),
        distortions=_distortion_rows(predictions, options.rule),
        calibration=calibrate(scored, scores, main_fit),
        warnings=_warnings(predictions, len(scored), measured["srcc"], note),
        draws=draws,
    )


def _lost(predictions: Predictions) -> LostProbability | None:
    known = predictions.lost[np.isfinite(predictions.lost)]
    if not len(known):
        return None
    return LostProbability(len(known), float(known.mean()), float(known.max()))


def measure(figure: Figure, draws: FloatArray, units: int, level: float) -> Measured:
    """A figure with the interval of its draws."""
    if figure.reason:
        return Measured(figure.value, Interval(math.nan, math.nan, figure.reason), figure.reason)
    if not len(draws):
        return Measured(figure.value, Interval(math.nan, math.nan, "no bootstrap draws asked for"))
    return Measured(figure.value, interval_of_draws(draws, units, level))


def _correlations(
    scores: FloatArray,
    mos: FloatArray,
    clusters: Sequence[object] | None,
    units: Units,
    seed: int,
    options: FigureOptions,
) -> tuple[dict[str, Measured], dict[str, FloatArray]]:
    measured, draws = {}, {}
    for name, (statistic, figure) in CORRELATIONS.items():
        draws[name] = bootstrap_draws(
            statistic, scores, mos, clusters=clusters, draws=options.draws, seed=seed
        )
        measured[name] = measure(figure(scores, mos), draws[name], units.count, options.level)
    return measured, draws


def _fitted(
    scores: FloatArray,
    mos: FloatArray,
    units: Units,
    seed: int,
    curve: Curve,
    options: FigureOptions,
) -> tuple[FitFigures, tuple[FloatArray, FloatArray]]:
    """Figures after a fit, refitted in every draw, and their draws."""
    fit = fit_logistic(scores, mos, curve)
    if fit.reason:
        draws = (np.full(options.draws, np.nan),) * 2
    else:
        draws = _fit_draws(scores, mos, units, seed, fit, options.draws)
    return (
        FitFigures(
            fit,
            measure(fit.plcc, draws[0], units.count, options.level),
            measure(fit.rmse, draws[1], units.count, options.level),
        ),
        draws,
    )


def _fit_draws(
    scores: FloatArray, mos: FloatArray, units: Units, seed: int, fit: LogisticFit, draws: int
) -> tuple[FloatArray, FloatArray]:
    correlations, errors = [], []
    for block in resample_counts(units, draws, seed):
        for counts in block.astype(np.int64):
            rows = np.repeat(np.arange(len(scores)), counts)
            refit = fit_logistic(scores[rows], mos[rows], fit.curve, near=fit)
            correlations.append(refit.plcc.value)
            errors.append(refit.rmse.value)
    return np.asarray(correlations), np.asarray(errors)


def _reference_means(
    predictions: Predictions, seed: int, options: FigureOptions
) -> ReferenceMeans | None:
    # References of all images: one whose images have no score is missing, and counted.
    labels = predictions.clusters()
    if labels is None:
        return None
    scores = predictions.image_scores(options.rule)
    rows: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        rows.setdefault(label, [])
        if np.isfinite(scores[row]):
            rows[label].append(row)
    values: dict[str, list[float]] = {name: [] for name in CORRELATIONS}
    reasons: Counter[str] = Counter()
    for members in rows.values():
        found = {
            name: f(scores[members], predictions.mos[members])
            for name, (_, f) in CORRELATIONS.items()
        }
        obstacles = [figure.reason for figure in found.values() if figure.reason]
        if obstacles:
            few = len(members) < MIN_PAIRS
            reasons[f"fewer than {MIN_PAIRS} images with a score" if few else obstacles[0]] += 1
            continue
        for name, figure in found.items():
            values[name].append(figure.value)
    count = len(values["srcc"])
    means = {name: _mean_over_units(values[name], seed, options) for name in CORRELATIONS}
    return ReferenceMeans(
        count, len(rows) - count, dict(reasons), means["srcc"], means["krcc"], means["plcc"]
    )


def _mean_over_units(values: Sequence[float], seed: int, options: FigureOptions) -> Measured:
    """Mean of one value a unit, with the units resampled."""
    if not values:
        reason = "no reference has three scored images with different scores"
        return measure(Figure(math.nan, reason), np.empty(0), 0, options.level)
    array = np.asarray(values)
    blocks = resample_counts(Units.of(len(array), None), options.draws, seed)
    draws = [block @ array / len(array) for block in blocks]
    drawn = np.concatenate(draws) if draws else np.empty(0)
    return measure(Figure(float(array.mean())), drawn, len(array), options.level)


def _distortion_rows(predictions: Predictions, rule: ScoreRule) -> tuple[DistortionRow, ...]:
    names = dict.fromkeys(name for name in predictions.distortions if name is not None)
    if len(names) < 2:
        return ()
    labels = np.asarray(predictions.distortions, dtype=object)
    scores = predictions.image_scores(rule)
    rows = []
    for name in names:
        named = labels == name
        members = named & np.isfinite(scores)
        found = {
            key: f(scores[members], predictions.mos[members])
            for key, (_, f) in CORRELATIONS.items()
        }
        rows.append(
            DistortionRow(
                str(name), int(members.sum()), int(named.sum()), found["srcc"], found["krcc"],
                found["plcc"],
            )
        )  # fmt: skip
    # Figures that do not exist come last.
    return tuple(
        sorted(rows, key=lambda row: (math.isnan(row.srcc.value), row.srcc.value, row.name))
    )


def _warnings(
    predictions: Predictions, scored: int, srcc_: Measured, note: str | None
) -> tuple[str, ...]:
    found = []
    if srcc_.reason:
        found.append(f"no figures: {srcc_.reason}")
    elif srcc_.value < 0:
        found.append(
            f"SRCC is {srcc_.value:.3f}: predictions fall as opinion scores rise. Check the "
            "direction of the labels (lower_is_better) and of the scores"
        )
    if scored < len(predictions):
        found.append(
            f"{len(predictions) - scored} of {len(predictions)} images have no score and are left "
            "out of every figure"
        )
    unnamed = sum(name is None for name in predictions.references)
    if 0 < unnamed < len(predictions):
        found.append(
            f"no means per reference: {unnamed} of {len(predictions)} images have no reference"
        )
    if note:
        found.append(note)
    return tuple(found)
