"""Logistic maps from predicted scores to MOS, fitted by least squares.

What it does: fits the two curves of the field's evaluation protocols, so that PLCC and RMSE can be
reported after the monotone map that raters' use of their scale amounts to:

    4 parameters (VQEG 2000):          f(x) = b2 + (b1 - b2) / (1 + exp(-(x - b3) / b4)),  b4 > 0
    5 parameters (Sheikh et al. 2006): f(x) = b1 (1/2 - 1 / (1 + exp(b2 (x - b3)))) + b4 x + b5

Both are linear in all but the sigmoid's centre and width. Those two are found by Levenberg and
Marquardt's method with the linear parameters solved for exactly at every step (variable
projection: Golub and Pereyra 1973, Kaufman's derivative), which also converges on data that are
nearly a straight line or an exponential, where all parameters together run to infinity. Several
starting points are tried and the best of those that converge wins. A fit is refused where the best
curve does not rise over the data: it would turn a predictor that ranks the wrong way round into a
good one.

Not here: weights and robust losses.

Shape legend: n images, p parameters of the curve. Inside, predictions x and MOS y are
standardised to mean 0 and variance 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import expit

from vqr1.iqa.correlation import FloatArray, MetricValue, Vector, as_vector, obstacle, pearson

Curve = Literal["logistic4", "logistic5"]
PARAMETERS: dict[Curve, int] = {"logistic4": 4, "logistic5": 5}

MAX_STEPS = 200
_TOLERANCE = 1e-13
"""Relative decrease of the squared error below which a step counts as none."""

WARM_TOLERANCE = 1e-7
"""The same for a fit near a known one: intervals need four digits, and a thousand fits."""

NEWTON_AFTER = 20
"""Steps after which second derivatives replace the product of first ones."""

_STARTS = 8
"""Starting points of a fit."""

_GRID_POINTS = 1000
"""Images that the search for starting points looks at."""

LOG_WIDTH = (math.log(0.02), math.log(1e3))
"""Bounds on the log width in standard deviations of x: wider is a straight line; narrower is a step
between two neighbouring images, which least squares likes on few data and nobody believes."""

BEYOND = 15.0
"""How many widths the centre may lie beyond the data: there the sigmoid is an exponential to
3e-7, and the parameters are still small enough to evaluate the formula without cancellation."""


@dataclass(frozen=True)
class LogisticFit:
    """A fitted curve, or the reason why there is none.

    Attributes:
        curve: which formula.
        parameters: p values b1..bp in the module's formulas, in the data's own units; empty
            without a fit.
        plcc: Pearson's correlation of f(x) with the MOS.
        rmse: root of the mean squared error of f(x) (divided by n), in MOS units.
        starts: starting points tried.
        converged: how many of them converged.
    """

    curve: Curve
    parameters: tuple[float, ...]
    plcc: MetricValue
    rmse: MetricValue
    starts: int
    converged: int

    @property
    def reason(self) -> str | None:
        """Why there is no fit; None where there is one."""
        return self.plcc.reason

    def __call__(self, x: Vector) -> FloatArray:
        """f(x) [n] in MOS units; NaN without a fit."""
        values = as_vector(x)
        if not self.parameters:
            return np.full(len(values), np.nan)
        b = self.parameters
        if self.curve == "logistic4":
            return b[1] + (b[0] - b[1]) * expit((values - b[2]) / b[3])
        return b[0] * (expit(b[1] * (values - b[2])) - 0.5) + b[3] * values + b[4]


class _Projection(NamedTuple):
    """The best curve for one centre and width.

    Attributes:
        cost: squared error.
        residual: [n] y minus the curve.
        jacobian: [n, 2] derivative of the curve by centre and log width, linear part re-solved.
        offset, height, slope: the linear parameters: offset + height * sigmoid + slope * x.
    """

    cost: float
    residual: FloatArray
    jacobian: FloatArray
    offset: float
    height: float
    slope: float


def _project(centre: float, width: float, x: FloatArray, y: FloatArray, line: bool) -> _Projection:
    """Solve for offset, height and (with `line`) slope; x and y [n] are standardised."""
    n = len(x)
    inner = (x - centre) / width
    # The sigmoid up to a constant, from the side where it has no 1 - tiny.
    left = centre < 0
    part = expit(-inner if left else inner)
    column = -part if left else part
    slope_at = part * (1 - part)

    def remove_fixed(vector: FloatArray) -> FloatArray:
        vector = vector - vector.mean()
        return vector - (x @ vector / n) * x if line else vector

    free, target = remove_fixed(column), remove_fixed(y)
    square = float(free @ free)
    # A column that the line already explains to rounding has no height of its own.
    informative = square > 1e-24 * float(column @ column)
    height = float(free @ target) / square if informative else 0.0
    residual = target - height * free
    derivatives = []
    for derivative in (-slope_at / width, -slope_at * inner):
        moved = remove_fixed(height * derivative)
        derivatives.append(moved - (free @ moved / square) * free if informative else moved)
    slope = float(x @ (y - height * column)) / n if line else 0.0
    offset = float(y.mean() - height * (column.mean() + (1.0 if left else 0.0)))
    return _Projection(
        float(residual @ residual), residual, np.stack(derivatives, 1), offset, height, slope
    )


def _inside(theta: FloatArray, reach: float) -> FloatArray:
    """Centre and log width moved inside their bounds; `reach` is the largest |x|."""
    log_width = float(np.clip(theta[1], *LOG_WIDTH))
    bound = reach + BEYOND * math.exp(log_width)
    return np.array([np.clip(theta[0], -bound, bound), log_width])


def _minimise(
    start: FloatArray, x: FloatArray, y: FloatArray, line: bool, tolerance: float
) -> tuple[FloatArray, _Projection, bool]:
    """Centre and log width [2] of the smallest squared error near `start`; whether it converged.

    A step that lowers the squared error by less than the share `tolerance` counts as none.
    """
    reach = float(np.abs(x).max())
    theta, damping, still = _inside(start, reach), 1e-3, 0
    current = _project(theta[0], math.exp(theta[1]), x, y, line)
    for step in range(MAX_STEPS):
        gradient = current.jacobian.T @ current.residual
        curvature = current.jacobian.T @ current.jacobian
        if step >= NEWTON_AFTER:
            curvature = _hessian(theta, current, x, y, line)
        floor = 1e-12 * float(curvature.trace()) + 1e-300
        system = curvature + damping * np.diag(np.diag(curvature) + floor)
        trial_theta = _inside(theta + _solve(system, gradient), reach)
        trial = _project(trial_theta[0], math.exp(trial_theta[1]), x, y, line)
        if not trial.cost < current.cost:
            damping *= 10
            if damping > 1e10:
                return theta, current, True  # no step, however short, lowers the error
            continue
        # One small decrease may come from heavy damping; two in a row, or one under light damping
        # with a loose tolerance, do not.
        small = current.cost - trial.cost <= tolerance * current.cost
        still = still + 1 + (tolerance > _TOLERANCE and damping <= 1e-3) if small else 0
        theta, current = trial_theta, trial
        damping = max(damping / 10, 1e-10)
        if still >= 2:
            return theta, current, True
    # A sigmoid that narrows to a step gains ever less and never stops: flat is good enough.
    slope = np.abs(current.jacobian.T @ current.residual).max()
    return theta, current, bool(slope <= 1e-6 * current.cost)


def _hessian(
    theta: FloatArray, current: _Projection, x: FloatArray, y: FloatArray, line: bool
) -> FloatArray:
    """Half the squared error's second derivatives [2, 2], made positive definite.

    The product of Jacobians excludes the curve's own curvature, and crawls along bent valleys.
    """
    gradient = current.jacobian.T @ current.residual
    rows = []
    for step in (np.array([1e-6, 0.0]), np.array([0.0, 1e-6])):
        moved = _project(theta[0] + step[0], math.exp(theta[1] + step[1]), x, y, line)
        rows.append((gradient - moved.jacobian.T @ moved.residual) / 1e-6)
    values, vectors = np.linalg.eigh((np.stack(rows) + np.stack(rows).T) / 2)
    values = np.maximum(np.abs(values), 1e-9 * float(np.abs(values).max()) + 1e-300)
    return (vectors * values) @ vectors.T


def _solve(system: FloatArray, right: FloatArray) -> FloatArray:
    """Solution [2] of a symmetric 2 x 2 system, or no step where it is singular to rounding."""
    (a, b), (_, d) = system
    determinant = a * d - b * b
    if not abs(determinant) > 1e-290:
        return np.zeros(2)
    return np.array([d * right[0] - b * right[1], a * right[1] - b * right[0]]) / determinant


def _starts(x: FloatArray, y: FloatArray, line: bool) -> list[FloatArray]:
    """The best cells of a grid of centres and log widths, the very best first.

    The squared error has many minima where the data are few or nearly straight (a narrow sigmoid
    can fit any gap), so the grid is fine in the data and reaches beyond them on both sides.
    """
    order = np.argsort(x, kind="stable")
    if len(x) > _GRID_POINTS:
        order = order[np.linspace(0, len(x) - 1, _GRID_POINTS).astype(np.int64)]
    x, y = x[order], y[order]
    middles = np.unique((x[1:] + x[:-1]) / 2)
    within = middles[np.linspace(0, len(middles) - 1, min(len(middles), 30)).astype(np.int64)]
    cells = []
    for log_width in np.log([0.03, 0.1, 0.25, 0.5, 1.0, 2.0, 8.0]):
        width = math.exp(log_width)
        beyond = [x[0] - 3 * width, x[-1] + 3 * width] if width > 0.3 else []
        centres = [*within, *beyond]
        costs = [_project(centre, width, x, y, line).cost for centre in centres]
        best = sorted(range(len(costs)), key=costs.__getitem__)[:3]
        cells += [(costs[i], float(centres[i]), float(log_width)) for i in best]
    return [np.array(cell[1:]) for cell in sorted(cells)[:_STARTS]]


def _search(
    x: FloatArray, y: FloatArray, line: bool, warm: FloatArray | None
) -> tuple[int, int, tuple[FloatArray, _Projection] | None]:
    """Starting points tried, how many converged, and the best centre, log width and curve."""
    if warm is not None:
        theta, found, ended = _minimise(warm, x, y, line, WARM_TOLERANCE)
        if ended:
            return 1, 1, (theta, found)
    ends = [_minimise(start, x, y, line, _TOLERANCE) for start in _starts(x, y, line)]
    good = [(theta, found) for theta, found, ended in ends if ended]
    best = min(good, key=lambda end: end[1].cost) if good else None
    return len(ends) + (warm is not None), len(good), best


def _refused(curve: Curve, reason: str, starts: int, converged: int) -> LogisticFit:
    none = MetricValue(math.nan, reason)
    return LogisticFit(curve, (), none, none, starts, converged)


def fit_logistic(
    pred: Vector, target: Vector, curve: Curve = "logistic4", near: LogisticFit | None = None
) -> LogisticFit:
    """Fit one of the two curves by least squares.

    Args:
        pred: [n] predicted scores, finite.
        target: [n] MOS, finite, higher is better.
        curve: `logistic4` or `logistic5`.
        near: a fit of similar data: its parameters are tried first, and alone if they converge.
            Bootstrap draws start from the whole set's fit.

    Returns:
        The best fit of all starting points that converge; without parameters, and with the reason,
        where the correlation does not exist, there are fewer than p + 2 images, no starting point
        converges, or the best curve does not rise from the lowest to the highest prediction.

    Raises:
        ValueError: the lengths differ.
    """
    x, y = as_vector(pred), as_vector(target)
    reason = obstacle(x, y)
    if not reason and len(x) < PARAMETERS[curve] + 2:
        reason = f"{len(x)} images, a fit of {PARAMETERS[curve]} parameters needs two more"
    if reason:
        return _refused(curve, reason, 0, 0)
    scale, x, y = _standardised(x, y)
    tried, converged, best = _search(x, y, curve == "logistic5", warm_start(near, scale))
    if best is None:
        return _refused(curve, f"none of {tried} starting points converged", tried, converged)
    return _fit(curve, *best, x, y, scale, tried, converged)


def fit_of_theta(x: FloatArray, y: FloatArray, curve: Curve, theta: FloatArray) -> LogisticFit:
    """The fit whose centre and log width a search near a known fit has found.

    Args:
        x: [n] predicted scores that have a correlation with y, more than the curve's parameters.
        y: [n] MOS.
        curve: `logistic4` or `logistic5`.
        theta: [2] on the standardised scale.
    """
    scale, x, y = _standardised(x, y)
    found = _project(theta[0], math.exp(theta[1]), x, y, curve == "logistic5")
    return _fit(curve, theta, found, x, y, scale, 1, 1)


Scale = tuple[float, float, float, float]
"""Mean and standard deviation of predictions, then of MOS."""


def _standardised(x: FloatArray, y: FloatArray) -> tuple[Scale, FloatArray, FloatArray]:
    scale = (float(x.mean()), float(x.std()), float(y.mean()), float(y.std()))
    return scale, (x - scale[0]) / scale[1], (y - scale[2]) / scale[3]


def _fit(
    curve: Curve,
    theta: FloatArray,
    found: _Projection,
    x: FloatArray,
    y: FloatArray,
    scale: Scale,
    tried: int,
    converged: int,
) -> LogisticFit:
    """The fit of a curve, refused where it does not rise over the data."""
    values = y - found.residual
    if not values[x.argmax()] - values[x.argmin()] > 1e-9:
        return _refused(
            curve, "the best curve does not rise with the predictions", tried, converged
        )
    return LogisticFit(
        curve,
        _native(curve, theta, found, scale),
        MetricValue(pearson(values, y)),
        MetricValue(math.sqrt(found.cost / len(x)) * scale[3]),
        tried,
        converged,
    )


def _native(
    curve: Curve,
    theta: FloatArray,
    found: _Projection,
    scale: Scale,
) -> tuple[float, ...]:
    """Parameters b1..bp of the published formulas in the data's own units."""
    x_mean, x_std, y_mean, y_std = scale
    offset, height = y_mean + y_std * found.offset, y_std * found.height
    centre, width = x_mean + x_std * theta[0], x_std * math.exp(theta[1])
    if curve == "logistic4":
        return (offset + height, offset, float(centre), width)
    slope = y_std * found.slope / x_std
    return (height, 1 / width, float(centre), slope, offset + height / 2 - slope * x_mean)


def warm_start(near: LogisticFit | None, scale: Scale) -> FloatArray | None:
    """Centre and log width of another fit, on this data's standardised scale."""
    if near is None or not near.parameters:
        return None
    width = near.parameters[3] if near.curve == "logistic4" else 1 / near.parameters[1]
    return np.array([(near.parameters[2] - scale[0]) / scale[1], math.log(width / scale[1])])
