"""Does the standard deviation of a model's answers predict its error?

What it does: for images with several valid answers, compares the standard deviation s of the
answers with the error |f(mean answer) - MOS|, where f is the fitted logistic map: the rank
correlation of the two, and the error within bins of equally many images by rising s. A model that
knows what it does not know has a positive correlation and errors that rise along the bins.

Not here: recalibration.

Shape legend: n images with a score and at least two valid answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vqr1.evaluation.predictions import Predictions
from vqr1.iqa.correlation import FloatArray, MetricValue, srcc_value
from vqr1.iqa.logistic import LogisticFit

_BINS = 10
_PER_BIN = 10
"""Images that a bin needs for its error to mean something; fewer images make fewer bins."""


@dataclass(frozen=True)
class StdBin:
    """Images of similar standard deviation.

    Attributes:
        images: how many.
        std: their mean standard deviation, in score units.
        rmse: root mean squared error after the fit, in MOS units.
    """

    images: int
    std: float
    rmse: float


@dataclass(frozen=True)
class Calibration:
    """Standard deviation of the answers against error.

    Attributes:
        images: n.
        srcc: rank correlation of standard deviation and absolute error; NaN with the reason.
        bins: by rising standard deviation; empty where there is no correlation.
    """

    images: int
    srcc: MetricValue
    bins: tuple[StdBin, ...]


def calibrate(scored: Predictions, scores: FloatArray, fit: LogisticFit | None) -> Calibration:
    """Compare standard deviation and error of images with a score.

    Args:
        scored: images with a score.
        scores: [n] their scores.
        fit: the logistic map from scores to MOS.
    """
    std = scored.score_std()
    known = np.isfinite(std)
    count = int(known.sum())
    if not count:
        return Calibration(0, MetricValue(math.nan, "no image has two valid answers"), ())
    if fit is None or fit.reason:
        reason = "no fit" if fit is None else f"no fit: {fit.reason}"
        return Calibration(count, MetricValue(math.nan, reason), ())
    std = std[known]
    error = np.abs(fit(scores[known]) - scored.mos[known])
    if count >= 3 and np.ptp(std) == 0:
        return Calibration(count, MetricValue(math.nan, "all standard deviations are equal"), ())
    metric = srcc_value(std, error)
    return Calibration(count, metric, () if metric.reason else _bins(std, error))


def _bins(std: FloatArray, error: FloatArray) -> tuple[StdBin, ...]:
    order = np.argsort(std, kind="stable")
    parts = np.array_split(order, min(_BINS, max(1, len(order) // _PER_BIN)))
    return tuple(
        StdBin(
            len(part),
            float(std[part].mean()),
            float(np.sqrt(np.mean(error[part] ** 2))),
        )
        for part in parts
    )
