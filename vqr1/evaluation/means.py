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

from vqr1.evaluation.figures import FigureOptions, Measured, SetFigures, measure
from vqr1.iqa.correlation import Figure


@dataclass(frozen=True)
class SetMeans:
    """Means of each figure over sets.

    Attributes:
        sets: names of the sets.
        plain: mean over sets by figure (srcc, krcc, plcc, plcc_logistic4, ...).
        weighted: mean weighted by scored images.
    """

    sets: tuple[str, ...]
    plain: Mapping[str, Measured]
    weighted: Mapping[str, Measured]


def figure_values(figures: SetFigures) -> dict[str, Measured]:
    """The figures of a set that can be averaged, by name."""
    fitted = {f"plcc_{curve}": fit.plcc for curve, fit in figures.fits.items()}
    return {"srcc": figures.srcc, "krcc": figures.krcc, "plcc": figures.plcc, **fitted}


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
    for name in figure_values(sets[0]):
        values = [figure_values(figures)[name] for figures in sets]
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
        draws = np.average([figures.draws[name] for figures in sets], axis=0, weights=weights)
        result[name] = measure(Figure(mean), draws, fewest, options.level)
    return result
