"""Metrics of predictions: correlations with intervals, one set or several, and paired gains.

What it does: the metrics that training watches and every report starts from. Data sets are never
pooled, since their MOS scale differ: metrics of several sets are the plain mean of the sets'
metrics, and its interval comes from the sets' independent draws. Images without a score are left
out of the correlations and counted.

Not here: fits, per-reference means and per-distortion rows (`vqr1.evaluation.set_metrics`).

Shape legend: n images, S answers an image, D bootstrap draws.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vqr1.evaluation.metrics import (
    HEADLINE,
    METRICS,
    Measured,
    Metric,
    MetricInputs,
    headline,
)
from vqr1.evaluation.predictions import Predictions, Resample, ScoreRule, bootstrap_clusters
from vqr1.iqa.bootstrap import (
    Interval,
    Statistic,
    Units,
    interval_of_draws,
    paired_gain_interval,
)
from vqr1.iqa.correlation import FloatArray, MetricValue

_HEADLINE = headline()
_NOT_DRAWN = Interval(math.nan, math.nan, "no bootstrap draws were asked for")


@dataclass(frozen=True)
class Summary:
    """Metrics of one data set, or the plain mean over several.

    Attributes:
        metrics: by name, each with its 95 % bootstrap interval (over references where images share
            enough of them, otherwise over images: `bootstrap_clusters`).
        n: images.
        n_scored: images with a score: those that enter the correlations.
        invalid_rate: answers that could not be parsed / all answers.
        format_compliance_rate: format-compliant answers / all answers.
        score_std: mean standard deviation of an image's answers, over the images with two valid
            ones or more; NaN with one answer an image.
        n_std: images that enter `score_std`.
        parts: each set's own summary, where there are several.
    """

    metrics: Mapping[str, Measured]
    n: int
    n_scored: int
    invalid_rate: float
    format_compliance_rate: float
    score_std: float
    n_std: int
    parts: Mapping[str, Summary] = field(default_factory=dict)

    @property
    def srcc(self) -> float:
        """The headline."""
        return self.metrics[HEADLINE].value

    @property
    def reasons(self) -> dict[str, str]:
        """Why a metric is NaN, by its name."""
        return {name: found.reason for name, found in self.metrics.items() if found.reason}


def summarise(
    predictions: Predictions,
    *,
    rule: ScoreRule = "valid_mean",
    resample: Resample = "auto",
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    metrics: Sequence[Metric] = METRICS,
) -> Summary:
    """Correlations, intervals and answer rates of predictions.

    Args:
        predictions: scored images of one or several sets.
        rule: which images have a score.
        resample: what the bootstrap draws.
        draws: bootstrap draws; 0 computes no intervals.
        seed: seed of the draws.
        level: confidence level of the intervals.
        metrics: those to compute.

    Returns:
        The set's metrics; for several sets their plain mean, with each set's own under `parts`. A
        mean over sets is NaN where the metric of any set is.
    """
    sets = predictions.by_dataset()
    results: dict[str, dict[str, MetricValue]] = {}
    drawn: dict[str, list[FloatArray]] = {metric.name: [] for metric in metrics}
    units: list[int] = []
    for dataset, part in sets.items():
        scored, scores = scored_rows(part, rule)
        clusters, _ = bootstrap_clusters(scored, resample)
        units.append(Units.of(len(scored), clusters).count)
        inputs = MetricInputs(scores, scored.mos, scored.std, scored.row_pairs())
        results[dataset] = {metric.name: metric.value(inputs) for metric in metrics}
        for metric in metrics:
            drawn[metric.name].append(
                metric.draws(inputs, draws, set_seed(seed, dataset), clusters)
            )
    parts = {
        dataset: _summary(
            part,
            rule,
            {
                name: _measured(results[dataset][name], values[number], units[number], level)
                for name, values in drawn.items()
            },
        )
        for number, (dataset, part) in enumerate(sets.items())
    }
    if len(parts) == 1:
        return next(iter(parts.values()))
    means = {
        metric.name: _measured(
            _mean_metric(metric, results),
            np.mean(drawn[metric.name], axis=0),
            min(units),
            level,
        )
        for metric in metrics
    }
    return replace(_summary(predictions, rule, means), parts=parts)


def set_seed(seed: int, dataset: str) -> int:
    """Seed of one set's draws: sets are independent samples, whichever others are evaluated."""
    words = (seed, zlib.crc32(dataset.encode()))
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


def scored_rows(part: Predictions, rule: ScoreRule) -> tuple[Predictions, FloatArray]:
    """The rows that have a score, and their scores."""
    scores = part.image_scores(rule)
    keep = np.isfinite(scores)
    return part.rows(keep), scores[keep]


def _measured(result: MetricValue, values: FloatArray, units: int, level: float) -> Measured:
    interval = interval_of_draws(values, units, level) if len(values) else _NOT_DRAWN
    return Measured(result.value, interval, result.reason)


def _mean_metric(metric: Metric, results: Mapping[str, Mapping[str, MetricValue]]) -> MetricValue:
    if not metric.averageable:
        return MetricValue(math.nan, f"{metric.label} has no mean over data sets")
    found = {dataset: by_name[metric.name] for dataset, by_name in results.items()}
    missing = [f"{dataset}: {result.reason}" for dataset, result in found.items() if result.reason]
    if missing:
        return MetricValue(math.nan, "; ".join(missing))
    return MetricValue(float(np.mean([result.value for result in found.values()])))


def _summary(part: Predictions, rule: ScoreRule, metrics: Mapping[str, Measured]) -> Summary:
    std = part.score_std()
    return Summary(
        metrics=metrics,
        n=len(part),
        n_scored=int(np.isfinite(part.image_scores(rule)).sum()),
        invalid_rate=float(1 - part.valid.mean()),
        format_compliance_rate=float(part.format_compliant.mean()),
        score_std=float(np.nanmean(std)) if np.isfinite(std).any() else math.nan,
        n_std=int(np.isfinite(std).sum()),
    )


@dataclass(frozen=True)
class Gain:
    """Difference of a metric between two predictors on the images that both score.

    Attributes:
        before: metric of the first, on the common images.
        after: metric of the second, on the common images.
        gain: after - before.
        interval: paired bootstrap interval of the gain.
        n: common images with a score from both.
        excluded: images of the first predictor without a score from both.
    """

    before: float
    after: float
    gain: float
    interval: Interval
    n: int
    excluded: int = 0


def paired_gain(
    before: Predictions,
    after: Predictions,
    *,
    statistic: Statistic = _HEADLINE.statistic,
    rule: ScoreRule = "valid_mean",
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Gain:
    """Gain of one data set's metric between two predictors, with its paired interval.

    Images are matched by name; those without a score from either predictor are excluded from both.

    Args:
        before: predictions of the first predictor.
        after: predictions of the second, of the same set.
        statistic: the metric.
        rule: which images have a score.
        draws: bootstrap draws.
        seed: seed of the draws.
        level: confidence level.

    Raises:
        ValueError: the predictions hold more than one data set or not the same one.
    """
    if set(before.datasets) != set(after.datasets) or len(set(before.datasets)) != 1:
        raise ValueError("a paired gain compares two predictors on one and the same data set")
    first, first_scores = scored_rows(before, rule)
    second, second_scores = scored_rows(after, rule)
    row = {image: i for i, image in enumerate(second.images)}
    pairs = [(i, row[image]) for i, image in enumerate(first.images) if image in row]
    left = np.array([i for i, _ in pairs], dtype=np.int64)
    right = np.array([j for _, j in pairs], dtype=np.int64)
    common = first.rows(left)
    x, y = first_scores[left], second_scores[right]
    was, now = statistic(x, common.mos), statistic(y, common.mos)
    interval = paired_gain_interval(
        statistic,
        x,
        y,
        common.mos,
        clusters=bootstrap_clusters(common)[0],
        draws=draws,
        seed=seed,
        level=level,
    )
    return Gain(was, now, now - was, interval, len(pairs), len(before) - len(pairs))
