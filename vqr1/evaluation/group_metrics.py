"""Metrics among groups of one set's images: those of a reference, those of a distortion.

Not here: metrics over all images of a set (`vqr1.evaluation.set_metrics`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vqr1.evaluation.metric_options import MetricOptions
from vqr1.evaluation.metrics import HEADLINE, Measured, measure
from vqr1.evaluation.predictions import Predictions
from vqr1.iqa.bootstrap import Units, resample_counts
from vqr1.iqa.correlation import MIN_PAIRS, MetricValue


@dataclass(frozen=True)
class ReferenceMeans:
    """Correlations within each reference, averaged over the references.

    Attributes:
        references: R, the references that enter.
        excluded: references without a correlation.
        reasons: how many of them by the reason why there is none.
        metrics: mean of the references' metrics by name, its interval over references.
    """

    references: int
    excluded: int
    reasons: Mapping[str, int]
    metrics: Mapping[str, Measured]

    @property
    def srcc(self) -> Measured:
        """The headline."""
        return self.metrics[HEADLINE]

    @property
    def total(self) -> int:
        """All references of the set."""
        return self.references + self.excluded


@dataclass(frozen=True)
class DistortionRow:
    """Correlations among the images of one distortion.

    Attributes:
        name: the distortion.
        images: its images with a score: those that enter.
        total: all its images.
        metrics: by name.
    """

    name: str
    images: int
    total: int
    metrics: Mapping[str, MetricValue]

    @property
    def srcc(self) -> MetricValue:
        """The headline."""
        return self.metrics[HEADLINE]


def reference_means(
    predictions: Predictions, seed: int, options: MetricOptions
) -> ReferenceMeans | None:
    """Means over references of the metrics among the images of one; None where none are shared.

    Args:
        predictions: rows of one set.
        seed: of the draws.
        options: how metrics are computed.
    """
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
    metrics = [metric for metric in options.metrics if metric.by_group]
    values: dict[str, list[float]] = {metric.name: [] for metric in metrics}
    reasons: Counter[str] = Counter()
    for members in rows.values():
        found = {
            metric.name: metric.compute(scores[members], predictions.mos[members])
            for metric in metrics
        }
        obstacles = [result.reason for result in found.values() if result.reason]
        if obstacles:
            few = len(members) < MIN_PAIRS
            reasons[f"fewer than {MIN_PAIRS} images with a score" if few else obstacles[0]] += 1
            continue
        for name, result in found.items():
            values[name].append(result.value)
    count = len(values[HEADLINE])
    means = {name: _mean_over_units(values[name], seed, options) for name in values}
    return ReferenceMeans(count, len(rows) - count, dict(reasons), means)


def _mean_over_units(values: Sequence[float], seed: int, options: MetricOptions) -> Measured:
    """Mean of one value a unit, with the units resampled."""
    if not values:
        reason = "no reference has three scored images with different scores"
        return measure(MetricValue(math.nan, reason), np.empty(0), 0, options.level)
    array = np.asarray(values)
    blocks = resample_counts(Units.of(len(array), None), options.draws, seed)
    draws = [block @ array / len(array) for block in blocks]
    drawn = np.concatenate(draws) if draws else np.empty(0)
    return measure(MetricValue(float(array.mean())), drawn, len(array), options.level)


def distortion_rows(predictions: Predictions, options: MetricOptions) -> tuple[DistortionRow, ...]:
    """Metrics among the images of each distortion, worst SRCC first; empty where there are not two.

    Args:
        predictions: rows of one set.
        options: how metrics are computed.
    """
    names = dict.fromkeys(name for name in predictions.distortions if name is not None)
    if len(names) < 2:
        return ()
    labels = np.asarray(predictions.distortions, dtype=object)
    scores = predictions.image_scores(options.rule)
    rows = []
    for name in names:
        named = labels == name
        members = named & np.isfinite(scores)
        found = {
            metric.name: metric.compute(scores[members], predictions.mos[members])
            for metric in options.metrics
            if metric.by_group
        }
        rows.append(DistortionRow(str(name), int(members.sum()), int(named.sum()), found))
    # Metrics that do not exist come last.
    return tuple(
        sorted(rows, key=lambda row: (math.isnan(row.srcc.value), row.srcc.value, row.name))
    )
