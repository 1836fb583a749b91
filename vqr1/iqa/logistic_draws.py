"""Logistic maps of many bootstrap draws of one set, searched for at the same time.

A fit of one draw is a dozen short steps over a few hundred images, most of whose time is Python's.
Here the steps of all draws are taken together, each as `vqr1.iqa.logistic` takes them: Levenberg
and Marquardt's method from the whole set's fit, with the linear parameters solved for exactly. A
draw whose search does not end, or that is degenerate, is fitted alone.

Shape legend: d draws, n images of the set; an image counts as often as it was drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from vqr1.iqa.correlation import FloatArray, Vector, as_vector
from vqr1.iqa.logistic import (
    BEYOND,
    LOG_WIDTH,
    MAX_STEPS,
    NEWTON_AFTER,
    PARAMETERS,
    WARM_TOLERANCE,
    LogisticFit,
    fit_logistic,
    fit_of_theta,
    warm_start,
)

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Draws:
    """Draws on their own standardised scales.

    Attributes:
        counts: [d, n] how often each image was drawn.
        x: [d, n] predictions of mean 0 and variance 1 within a draw.
        y: [d, n] MOS likewise.
        line: the curve has a straight line beside the sigmoid.
    """

    counts: FloatArray
    x: FloatArray
    y: FloatArray
    line: bool

    def __getitem__(self, rows: BoolArray) -> _Draws:
        return _Draws(self.counts[rows], self.x[rows], self.y[rows], self.line)

    def sums(self, values: FloatArray) -> FloatArray:
        """[d, 1] sums over the images of each draw."""
        return np.einsum("dn,dn->d", self.counts, values)[:, None]

    def remove_fixed(self, values: FloatArray) -> FloatArray:
        """[d, n] without what a constant, and with `line` a straight line, explains."""
        images = self.counts.sum(axis=1, keepdims=True)
        values = values - self.sums(values) / images
        return values - (self.sums(self.x * values) / images) * self.x if self.line else values


def _linearised(theta: FloatArray, draws: _Draws) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Squared errors [d], their gradients [d, 2] and curvatures [d, 3] (aa, ab, bb) at theta."""
    centre, width = theta[:, :1], np.exp(theta[:, 1:])
    inner = (draws.x - centre) / width
    side = np.where(centre < 0, -1.0, 1.0)
    part = expit(side * inner)
    column, slope_at = side * part, part * (1 - part)
    free, target = draws.remove_fixed(column), draws.remove_fixed(draws.y)
    square = draws.sums(free * free)
    informative = square > 1e-24 * draws.sums(column * column)
    safe = np.where(informative, square, 1.0)
    height = np.where(informative, draws.sums(free * target) / safe, 0.0)
    residual = target - height * free
    jacobian = []
    for derivative in (-slope_at / width, -slope_at * inner):
        moved = draws.remove_fixed(height * derivative)
        jacobian.append(moved - (draws.sums(free * moved) / safe) * free)
    first, second = jacobian
    return (
        draws.sums(residual * residual)[:, 0],
        np.hstack([draws.sums(one * residual) for one in jacobian]),
        np.hstack(
            [draws.sums(a * b) for a, b in ((first, first), (first, second), (second, second))]
        ),
    )


def _search(theta: FloatArray, draws: _Draws) -> tuple[FloatArray, BoolArray]:
    """Centre and log width [d, 2] of the smallest errors near `theta`; which searches ended."""
    reach = np.abs(np.where(draws.counts > 0, draws.x, 0.0)).max(axis=1)
    theta = _inside(theta, reach)
    cost, gradient, curvature = _linearised(theta, draws)
    damping, still = np.full(len(theta), 1e-3), np.zeros(len(theta), np.int64)
    ended = np.zeros(len(theta), np.bool_)
    for number in range(MAX_STEPS):
        going = ~ended
        if not going.any():
            break
        curved = curvature[going]
        if number >= NEWTON_AFTER:
            curved = _hessian(theta[going], gradient[going], draws[going])
        step = _step(gradient[going], curved, damping[going])
        trial = _inside(theta[going] + step, reach[going])
        found, gradient_there, curvature_there = _linearised(trial, draws[going])
        lower = found < cost[going]
        small = cost[going] - found <= WARM_TOLERANCE * cost[going]
        light = damping[going] <= 1e-3
        still[going] = np.where(lower, np.where(small, still[going] + 1 + light, 0), still[going])
        damping[going] = np.where(
            lower, np.maximum(damping[going] / 10, 1e-10), damping[going] * 10
        )
        better = going.copy()
        better[going] = lower
        theta[better], cost[better] = trial[lower], found[lower]
        gradient[better], curvature[better] = gradient_there[lower], curvature_there[lower]
        ended |= (better & (still >= 2)) | (damping > 1e10)
    return theta, ended


def _hessian(theta: FloatArray, gradient: FloatArray, draws: _Draws) -> FloatArray:
    """[d, 3] half the errors' second derivatives, made positive definite."""
    rows = []
    for step in ([1e-6, 0.0], [0.0, 1e-6]):
        _, moved, _ = _linearised(theta + step, draws)
        rows.append((gradient - moved) / 1e-6)
    matrix = np.stack(rows, axis=1)
    values, vectors = np.linalg.eigh((matrix + matrix.transpose(0, 2, 1)) / 2)
    values = np.abs(values)
    values = np.maximum(values, 1e-9 * values.max(axis=1, keepdims=True) + 1e-300)
    made = np.einsum("dik,dk,djk->dij", vectors, values, vectors)
    return np.stack([made[:, 0, 0], made[:, 0, 1], made[:, 1, 1]], axis=1)


def _inside(theta: FloatArray, reach: FloatArray) -> FloatArray:
    log_width = np.clip(theta[:, 1], *LOG_WIDTH)
    bound = reach + BEYOND * np.exp(log_width)
    return np.column_stack([np.clip(theta[:, 0], -bound, bound), log_width])


def _step(gradient: FloatArray, curvature: FloatArray, damping: FloatArray) -> FloatArray:
    """[d, 2] damped steps; none where the system is singular to rounding."""
    a, b, d = curvature.T
    floor = 1e-12 * (a + d) + 1e-300
    a, d = a + damping * (a + floor), d + damping * (d + floor)
    determinant = a * d - b * b
    safe = np.where(np.abs(determinant) > 1e-290, determinant, np.inf)
    right = np.stack(
        [d * gradient[:, 0] - b * gradient[:, 1], a * gradient[:, 1] - b * gradient[:, 0]]
    )
    return (right / safe).T


def fit_draws(
    pred: Vector, target: Vector, counts: FloatArray, near: LogisticFit
) -> list[LogisticFit]:
    """`fit_logistic` of each draw, near the whole set's fit.

    Args:
        pred: [n] predicted scores, finite.
        target: [n] MOS, finite.
        counts: [d, n] how often each image is in each draw.
        near: the fit of all images once, with parameters.
    """
    x, y = as_vector(pred), as_vector(target)
    images = counts.sum(axis=1)
    x_mean, y_mean = counts @ x / images, counts @ y / images
    x_away, y_away = x - x_mean[:, None], y - y_mean[:, None]
    x_std = np.sqrt(np.einsum("dn,dn->d", counts, x_away**2) / images)
    y_std = np.sqrt(np.einsum("dn,dn->d", counts, y_away**2) / images)
    # A degenerate draw has a reason, which the single fit states.
    sound = (x_std > 0) & (y_std > 0) & (images >= PARAMETERS[near.curve] + 2)
    scales = np.stack([x_mean, x_std, y_mean, y_std], axis=1)
    draws = _Draws(
        counts[sound],
        x_away[sound] / x_std[sound, None],
        y_away[sound] / y_std[sound, None],
        near.curve == "logistic5",
    )
    starts = [warm_start(near, tuple(scale)) for scale in scales[sound].tolist()]
    ended = np.zeros(len(counts), np.bool_)
    theta = np.zeros((len(counts), 2))
    if starts:
        theta[sound], ended[sound] = _search(np.array(starts), draws)
    fits = []
    for number, drawn in enumerate(counts.astype(np.int64)):
        rows = np.repeat(np.arange(len(x)), drawn)
        if ended[number]:
            fits.append(fit_of_theta(x[rows], y[rows], near.curve, theta[number]))
        else:
            fits.append(fit_logistic(x[rows], y[rows], near.curve, near=near))
    return fits
