r"""Scores fitted to stated preferences, for whatever needs a number for each image.

    Thurstone (case V)   P(i beats j) = Phi(s_i - s_j)
    Bradley-Terry        P(i beats j) = 1 / (1 + exp(-(s_i - s_j)))

    s = argmax  sum over pairs of  w_ij log P(i, j) + w_ji log P(j, i)  -  PRIOR / 2 sum_i s_i^2

with w_ij the votes for i over j, a vote for "equal" being half a vote for each. The objective is
strictly concave. The prior (a normal one of standard deviation 10) keeps the scores of images that
always win finite, and sets the level of each group of images that no pair connects with others:
scores compare within a group only.

Sources: Thurstone 1927; Bradley and Terry 1952; the maximum of a posterior as in Tsukida and Gupta
2011 (UWEETR-2011-0004).

Shape legend: n images, m pairs.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import expit, log_expit, log_ndtr

from vqr1.iqa.correlation import FloatArray
from vqr1.iqa.preferences import StatedPairs

PreferenceModel = Literal["thurstone", "bradley_terry"]

PRIOR = 0.01
"""Precision of the normal prior of each score."""


def fit_scores(pairs: StatedPairs, n: int, model: PreferenceModel = "thurstone") -> FloatArray:
    """The scores of the module header.

    Args:
        pairs: of rows 0 to n - 1.
        n: images.
        model: of the probability.

    Returns:
        [n] float64; 0 for an image without a pair. A difference of 1 is a probability of .84
        (Thurstone) or .73 (Bradley-Terry).
    """
    i, j = pairs.first, pairs.second
    up, down = pairs.wins + 0.5 * pairs.equal, pairs.losses + 0.5 * pairs.equal
    scale = max(float(pairs.votes.sum()), 1.0)

    def objective(s: FloatArray) -> tuple[float, FloatArray]:
        d = s[i] - s[j]
        (won, lost), (won_slope, lost_slope) = _log_probabilities(d, model)
        slope = up * won_slope - down * lost_slope
        value = up @ won + down @ lost - 0.5 * PRIOR * (s @ s)
        gradient = np.bincount(i, slope, minlength=n) - np.bincount(j, slope, minlength=n)
        return -float(value) / scale, -(gradient - PRIOR * s) / scale

    def curvature(s: FloatArray) -> sparse.csr_array:
        d = s[i] - s[j]
        weights = _curvatures(d, up, down, model)
        diagonal = PRIOR + np.bincount(i, weights, minlength=n)
        diagonal += np.bincount(j, weights, minlength=n)
        places = np.arange(n)
        rows, columns = np.concatenate([places, i, j]), np.concatenate([places, j, i])
        values = np.concatenate([diagonal, -weights, -weights]) / scale
        return sparse.csr_array((values, (rows, columns)), shape=(n, n))

    if not len(pairs):
        return np.zeros(n)
    found = minimize(
        objective, np.zeros(n), jac=True, hess=curvature, method="Newton-CG",
        options={"xtol": 1e-9, "maxiter": 200},
    )  # fmt: skip
    return np.asarray(found.x, dtype=np.float64)


def _log_probabilities(
    d: FloatArray, model: PreferenceModel
) -> tuple[tuple[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]:
    """Log P and log (1 - P) of differences [m], and the slope of each along its own direction."""
    if model == "bradley_terry":
        return (log_expit(d), log_expit(-d)), (expit(-d), expit(d))
    won, lost = log_ndtr(d), log_ndtr(-d)
    density = -0.5 * d * d - 0.5 * math.log(2 * math.pi)
    return (won, lost), (np.exp(density - won), np.exp(density - lost))


def _curvatures(
    d: FloatArray, up: FloatArray, down: FloatArray, model: PreferenceModel
) -> FloatArray:
    """[m] minus the second derivative of a pair's log-likelihood by its difference."""
    _, (won, lost) = _log_probabilities(d, model)
    if model == "bradley_terry":
        return np.asarray((up + down) * won * lost)
    return np.asarray(up * won * (won + d) + down * lost * (lost - d))
