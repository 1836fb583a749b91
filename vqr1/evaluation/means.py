"""Means over data sets: plain, and weighted by the number of scored images.

Sets are independent samples, so the draws of a mean are the means of the sets' own draws. A mean is
NaN, with the reason, as soon as one set has no figure: leaving that set out would change what is
averaged. RMSE has no mean, since the sets' opinion scores have different units.

What it leaves out: pooling images of several sets, whose opinion scales differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vqr1.evaluation.figures import FigureOptions, SetFigures
from vqr1.evaluation.metrics import FITTED, Measured, all_entries, measure
from vqr1.iqa.correlation import Figure


@dataclass(frozen=True)
class SetMeans:
    """Means of each figure over sets.

    Attributes:
        sets: names of the sets.
        plain: mean over sets by metric.
        weighted: mean weighted by scored images.
    """

    sets: tuple[str, ...]
    plain: Mapping[str, Measured]
    weighted: Mapping[str, Measured]


def figure_values(figures: SetFigures, options: FigureOptions) -> dict[str, Measured]:
    """The figures of a set that can be averaged, by name."""
    values = all_figures(figures, options)
    averageable = {m.name for m in all_entries(options.metrics) if m.averageable}
    return {name: value for name, value in values.items() if name in averageable}


def all_figures(figures: SetFigures, options: FigureOptions) -> dict[str, Measured]:
    """Every figure of a set by name, those that cannot be averaged over sets last."""
    entries = sorted(all_entries(options.metrics), key=lambda metric: not metric.averageable)
    fitted = {
        metric.name: fit.metrics[metric.name]
        for curve, fit in figures.fits.items()
        for metric in FITTED
        if metric.curve == curve
    }
    values = {**figures.metrics, **fitted}
    return {metric.name: values[metric.name] for metric in entries if metric.name in values}


def set_means(sets: Sequence[SetFigures], options: FigureOptions) -> SetMeans:
    """Plain and weighted means over at least one set."""
    weights = np.array([figures.scored for figures in sets], dtype=np.float64)
    equal = np.ones(len(sets))
    return SetMeans(
        tuple(figures.dataset for figures in sets),
        _means(sets, equal, options),
        _means(sets, weights, options),
    )


def _means(
    sets: Sequence[SetFigures], weights: np.ndarray, options: FigureOptions
) -> dict[str, Measured]:
    result = {}
    fewest = min(figures.unit_count for figures in sets)
    for name in figure_values(sets[0], options):
        values = [figure_values(figures, options)[name] for figures in sets]
        missing = [
            f"{figures.dataset}: {value.reason}"
            for figures, value in zip(sets, values, strict=True)
            if value.reason
        ]
        if missing:
            figure = Figure(math.nan, "; ".join(missing))
            result[name] = measure(figure, np.empty(0), fewest, options.level)
            continue
        mean = float(np.average([value.value for value in values], weights=weights))
        drawn = [figures.draws[name] for figures in sets]
        draws = np.average(drawn, axis=0, weights=weights)
        result[name] = measure(Figure(mean), draws, fewest, options.level)
    return result
