"""Does the spread of a model's answers predict its error?

What it does: for images with several valid answers, compares the standard deviation s of the
answers with the error |f(mean answer) - MOS|, where f is the fitted logistic map: the rank
correlation of the two, and the error within bins of equally many images by rising s. A model that
knows what it does not know has a positive correlation and errors that rise along the bins.

What it leaves out: recalibration.

Shape legend: n images with a score and at least two valid answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vqr1.evaluation.predictions import Predictions
from vqr1.iqa.correlation import Figure, FloatArray, srcc_figure
from vqr1.iqa.logistic import LogisticFit

_BINS = 10
_PER_BIN = 10
"""Images that a bin needs for its error to mean something; fewer images make fewer bins."""


@dataclass(frozen=True)
class SpreadBin:
    """Images of similar spread.

    Attributes:
        images: how many.
        spread: their mean standard deviation, in score units.
        rmse: root mean squared error after the fit, in opinion-score units.
    """

    images: int
    spread: float
    rmse: float


@dataclass(frozen=True)
class Calibration:
    """Spread of the answers against error.

    Attributes:
        images: n.
        srcc: rank correlation of spread and absolute error; NaN with the reason.
        bins: by rising spread; empty where there is no correlation.
    """

    images: int
    srcc: Figure
    bins: tuple[SpreadBin, ...]


def calibrate(scored: Predictions, scores: FloatArray, fit: LogisticFit | None) -> Calibration:
    """Compare spread and error of images with a score.

    Args:
        scored: images with a score.
        scores: [n] their scores.
        fit: the logistic map from scores to opinion scores.
    """
    spread = scored.score_std()
    known = np.isfinite(spread)
    count = int(known.sum())
    if not count:
        return Calibration(0, Figure(math.nan, "no image has two valid answers"), ())
    if fit is None or fit.reason:
        reason = "no fit" if fit is None else f"no fit: {fit.reason}"
        return Calibration(count, Figure(math.nan, reason), ())
    spread = spread[known]
    error = np.abs(fit(scores[known]) - scored.mos[known])
    if count >= 3 and np.ptp(spread) == 0:
        return Calibration(count, Figure(math.nan, "all spreads are equal"), ())
    figure = srcc_figure(spread, error)
    return Calibration(count, figure, () if figure.reason else _bins(spread, error))


def _bins(spread: FloatArray, error: FloatArray) -> tuple[SpreadBin, ...]:
    order = np.argsort(spread, kind="stable")
    parts = np.array_split(order, min(_BINS, max(1, len(order) // _PER_BIN)))
    return tuple(
        SpreadBin(
            len(part),
            float(spread[part].mean()),
            float(np.sqrt(np.mean(error[part] ** 2))),
        )
        for part in parts
    )
