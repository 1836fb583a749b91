r"""Statistics of pairs of images, and of errors beside how much observers differ.

    pair accuracy   share of the pairs of different MOS whose order the scores have, ties 1/2 (2AFC)
    Krasula         a pair is significantly different where
                        |MOS_i - MOS_j| > 1.96 sqrt((s_i^2 + s_j^2) / N)       N observers
                    different / similar: AUC of |score difference|, different pairs against
                    others; better / worse: AUC of the score difference, within different pairs,
                    i better against j better
    outlier ratio   share of images with |fitted score - MOS| > 2 s
    residual F      variance of the residuals of the fit / mean of s^2: how far beyond one
                    observer's own scatter the errors are; below 1 a metric errs less

s is the standard deviation of the single ratings of an image, on the scale of the MOS.

Sources: Krasula et al. 2016 (doi:10.1109/QoMEX.2016.7498936); ITU-T P.1401 and VQEG FRTV (outlier
ratio; theirs compare with the standard error where N is known); Sheikh et al. 2006
(doi:10.1109/TIP.2006.881959) for the F-test on residuals.

Shape legend: n images, m pairs.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from vqr1.iqa.correlation import FloatArray, MetricValue, obstacle
from vqr1.iqa.logistic import fit_logistic

Z_95 = 1.959963984540054
"""Quantile of the normal distribution for 95 %, two-sided."""

_NO_STD = "no standard deviations of the MOS in the labels"


def pair_accuracy(scores: FloatArray, mos: FloatArray) -> MetricValue:
    """Pair accuracy in [0, 1]; 1/2 is a coin. (1 + Somers' D) / 2, in n log n.

    >>> round(pair_accuracy(np.array([1.0, 2.0, 4.0, 3.0]), np.array([1.0, 2.0, 3.0, 4.0])).value, 4)
    0.8333
    """  # noqa: E501
    reason = obstacle(scores, mos)
    if reason:
        return MetricValue(math.nan, reason)
    total = len(mos) * (len(mos) - 1) / 2
    distinct = [total - _tied(values) for values in (scores, mos)]
    tau = float(stats.kendalltau(scores, mos, method="asymptotic").statistic)
    excess = tau * math.sqrt(distinct[0] * distinct[1])
    return MetricValue(0.5 + 0.5 * excess / distinct[1])


def _tied(values: FloatArray) -> float:
    counts = np.unique(values, return_counts=True)[1]
    return float((counts * (counts - 1) // 2).sum())


def auc(values: FloatArray, positive: np.ndarray) -> float:
    """Area under the ROC curve of values [m] that shall be high where `positive` [m] is True.

    NaN where all pairs are of one kind.
    """
    count = int(positive.sum())
    others = len(values) - count
    if not count or not others:
        return math.nan
    ranks = stats.rankdata(values)
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * others))


def _pairs(scores: FloatArray, mos: FloatArray, std: FloatArray, observers: float) -> tuple[
    FloatArray, FloatArray, np.ndarray
]:  # fmt: skip
    """Score differences [m], MOS differences [m], and which pairs differ significantly [m]."""
    i, j = np.triu_indices(len(mos), k=1)
    true = mos[i] - mos[j]
    error = np.sqrt((std[i] ** 2 + std[j] ** 2) / observers)
    return scores[i] - scores[j], true, np.abs(true) > Z_95 * error


def _std_obstacle(scores: FloatArray, mos: FloatArray, std: FloatArray) -> str | None:
    reason = obstacle(scores, mos)
    if reason:
        return reason
    return None if np.isfinite(std).all() else _NO_STD


def different_similar(
    scores: FloatArray, mos: FloatArray, std: FloatArray, observers: float
) -> MetricValue:
    """Krasula's AUC of different against similar pairs, in [0, 1]; takes memory of n^2.

    Args:
        scores: [n].
        mos: [n].
        std: [n] standard deviations of the single ratings.
        observers: N, ratings an image.
    """
    reason = _std_obstacle(scores, mos, std)
    if reason:
        return MetricValue(math.nan, reason)
    difference, _, significant = _pairs(scores, mos, std, observers)
    value = auc(np.abs(difference), significant)
    one_kind = "all pairs are significantly different, or none is"
    return MetricValue(value, one_kind if math.isnan(value) else None)


def better_worse(
    scores: FloatArray, mos: FloatArray, std: FloatArray, observers: float
) -> MetricValue:
    """Krasula's AUC of better against worse within different pairs; arguments as above.

    Every pair counts in both directions, so that the order of the images does not matter.
    """
    reason = _std_obstacle(scores, mos, std)
    if reason:
        return MetricValue(math.nan, reason)
    difference, true, significant = _pairs(scores, mos, std, observers)
    difference, true = difference[significant], true[significant]
    if not len(true):
        return MetricValue(math.nan, "no pair is significantly different")
    both = np.concatenate([difference, -difference])
    return MetricValue(auc(both, np.concatenate([true > 0, true < 0])))


def outlier_ratio(scores: FloatArray, mos: FloatArray, std: FloatArray) -> MetricValue:
    """Outlier ratio in [0, 1] after the four-parameter logistic fit; arguments as above."""
    residuals = _residuals(scores, mos, std)
    if isinstance(residuals, MetricValue):
        return residuals
    return MetricValue(float(np.mean(np.abs(residuals) > 2 * std)))


def residual_f(scores: FloatArray, mos: FloatArray, std: FloatArray) -> MetricValue:
    """Residual F, above 0, after the four-parameter logistic fit; arguments as above."""
    residuals = _residuals(scores, mos, std)
    if isinstance(residuals, MetricValue):
        return residuals
    scatter = float(np.mean(std**2))
    if scatter == 0:
        return MetricValue(math.nan, "all standard deviations of the MOS are 0")
    return MetricValue(float(np.var(residuals, ddof=1)) / scatter)


def _residuals(scores: FloatArray, mos: FloatArray, std: FloatArray) -> FloatArray | MetricValue:
    reason = _std_obstacle(scores, mos, std)
    if reason:
        return MetricValue(math.nan, reason)
    fit = fit_logistic(scores, mos, "logistic4")
    if fit.reason:
        return MetricValue(math.nan, fit.reason)
    return np.asarray(fit(scores) - mos)
