"""Means over data sets: plain, and weighted by the number of scored images.

Sets are independent samples, so the draws of a mean are the means of the sets' own draws. A mean is
NaN, with the reason, as soon as one set has no metric: leaving that set out would change what is
averaged. RMSE has no mean, since the sets' MOS have different units.

Not here: pooling images of several sets, whose MOS scale differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vqr1.evaluation.metric_options import MetricOptions
from vqr1.evaluation.metrics import FITTED, Measured, all_entries, measure
from vqr1.evaluation.set_metrics import SetMetrics
from vqr1.iqa.correlation import MetricValue


@dataclass(frozen=True)
class SetMeans:
    """Means of each metric over sets.

    Attributes:
        sets: names of the sets.
        plain: mean over sets by metric.
        weighted: mean weighted by scored images.
    """

    sets: tuple[str, ...]
    plain: Mapping[str, Measured]
    weighted: Mapping[str, Measured]


def metric_values(metrics: SetMetrics, options: MetricOptions) -> dict[str, Measured]:
    """The metrics of a set that can be averaged, by name."""
    values = all_metrics(metrics, options)
    averageable = {m.name for m in all_entries(options.metrics) if m.averageable}
    return {name: value for name, value in values.items() if name in averageable}


def all_metrics(metrics: SetMetrics, options: MetricOptions) -> dict[str, Measured]:
    """Every metric of a set by name, those that cannot be averaged over sets last."""
    entries = sorted(all_entries(options.metrics), key=lambda metric: not metric.averageable)
    fitted = {
        metric.name: fit.metrics[metric.name]
        for curve, fit in metrics.fits.items()
        for metric in FITTED
        if metric.curve == curve
    }
    values = {**metrics.metrics, **fitted}
    return {metric.name: values[metric.name] for metric in entries if metric.name in values}


def set_means(sets: Sequence[SetMetrics], options: MetricOptions) -> SetMeans:
    """Plain and weighted means over at least one set."""
    weights = np.array([metrics.scored for metrics in sets], dtype=np.float64)
    equal = np.ones(len(sets))
    return SetMeans(
        tuple(metrics.dataset for metrics in sets),
        _means(sets, equal, options),
        _means(sets, weights, options),
    )


def _means(
    sets: Sequence[SetMetrics], weights: np.ndarray, options: MetricOptions
) -> dict[str, Measured]:
    result = {}
    fewest = min(metrics.unit_count for metrics in sets)
    for name in metric_values(sets[0], options):
        values = [metric_values(metrics, options)[name] for metrics in sets]
        missing = [
            f"{metrics.dataset}: {value.reason}"
            for metrics, value in zip(sets, values, strict=True)
            if value.reason
        ]
        if missing:
            found_metric = MetricValue(math.nan, "; ".join(missing))
            result[name] = measure(found_metric, np.empty(0), fewest, options.level)
            continue
        mean = float(np.average([value.value for value in values], weights=weights))
        drawn = [metrics.draws[name] for metrics in sets]
        draws = np.average(drawn, axis=0, weights=weights)
        result[name] = measure(MetricValue(mean), draws, fewest, options.level)
    return result
