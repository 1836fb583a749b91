"""Logistic fits against scipy's optimisers, known curves, and data that no curve fits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import least_squares

from vqr1.iqa.correlation import FloatArray
from vqr1.iqa.logistic import PARAMETERS, Curve, fit_logistic


def formula4(x, b1, b2, b3, b4):  # type: ignore[no-untyped-def]
    return b2 + (b1 - b2) / (1 + np.exp(-(x - b3) / b4))


def formula5(x, b1, b2, b3, b4, b5):  # type: ignore[no-untyped-def]
    return b1 * (0.5 - 1 / (1 + np.exp(b2 * (x - b3)))) + b4 * x + b5


FORMULAS = {"logistic4": formula4, "logistic5": formula5}


def independent(curve: Curve, x: FloatArray, y: FloatArray) -> tuple[float, float]:
    """RMSE and PLCC of scipy's trust-region least squares from 20 random starting points."""
    rng = np.random.default_rng(0)
    best = None
    for _ in range(20):
        if curve == "logistic4":
            start = [y.max(), y.min(), rng.choice(x), x.std() * np.exp(rng.normal() - 0.5)]
        else:
            start = [np.ptp(y), 2 * np.exp(rng.normal()) / x.std(), rng.choice(x), 0.0, y.mean()]
        found = least_squares(
            lambda b: FORMULAS[curve](x, *b) - y, start, x_scale="jac", xtol=1e-14, ftol=1e-14
        )
        best = found if best is None or found.cost < best.cost else best
    assert best is not None
    fitted = FORMULAS[curve](x, *best.x)
    return float(np.sqrt(np.mean((fitted - y) ** 2))), float(stats.pearsonr(fitted, y).statistic)


@pytest.mark.parametrize("curve", ["logistic4", "logistic5"])
@pytest.mark.parametrize(("n", "noise", "seed"), [(150, 0.2, 0), (400, 0.4, 1), (1200, 0.6, 2)])
def test_equals_independent_least_squares(curve: Curve, n: int, noise: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    quality = rng.normal(size=n)
    x = 3 + 0.6 * quality + 0.2 * rng.normal(size=n)
    y = 50 + 30 * np.tanh(1.2 * quality + 0.3) + 30 * noise * rng.normal(size=n)
    fit = fit_logistic(x, y, curve)
    rmse, correlation = independent(curve, x, y)
    assert fit.reason is None
    assert fit.rmse.value == pytest.approx(rmse, rel=1e-6)
    assert fit.plcc.value == pytest.approx(correlation, abs=1e-6)


@pytest.mark.parametrize(
    ("curve", "truth"),
    [("logistic4", (4.5, 1.2, 3.0, 0.4)), ("logistic5", (3.0, 2.5, 2.8, 0.3, 1.5))],
)
def test_recovers_a_known_curve(curve: Curve, truth: tuple[float, ...]) -> None:
    x = np.linspace(1, 5, 60)
    y = FORMULAS[curve](x, *truth)
    fit = fit_logistic(x, y, curve)
    assert fit.parameters == pytest.approx(truth, rel=1e-4)
    assert fit.rmse.value == pytest.approx(0.0, abs=1e-6)
    assert fit.plcc.value == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("curve", ["logistic4", "logistic5"])
def test_the_curve_it_returns_has_the_rmse_it_reports(curve: Curve) -> None:
    rng = np.random.default_rng(3)
    x = rng.uniform(1, 5, 200)
    y = np.exp(x) + rng.normal(size=200)  # no sigmoid: the centre runs out of the data
    fit = fit_logistic(x, y, curve)
    assert fit.rmse.value == pytest.approx(np.sqrt(np.mean((fit(x) - y) ** 2)), rel=1e-6)
    assert fit.plcc.value == pytest.approx(stats.pearsonr(fit(x), y).statistic, abs=1e-6)


def test_a_straight_line_is_fitted_as_well_as_by_a_line() -> None:
    rng = np.random.default_rng(4)
    x = rng.uniform(1, 5, 300)
    y = 10 * x + rng.normal(size=300)
    line = np.polyval(np.polyfit(x, y, 1), x)
    for curve in PARAMETERS:
        assert fit_logistic(x, y, curve).rmse.value <= np.sqrt(np.mean((line - y) ** 2)) + 1e-5


@pytest.mark.medium
def test_five_parameters_fit_no_worse_than_four() -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x = rng.uniform(1, 5, 100)
        y = np.tanh(x - 3) + 0.3 * rng.normal(size=100)
        four, five = (fit_logistic(x, y, curve).rmse.value for curve in PARAMETERS)
        assert five <= four + 1e-6


def test_units_do_not_matter() -> None:
    rng = np.random.default_rng(5)
    x = rng.uniform(1, 5, 120)
    y = np.tanh(x - 3) + 0.2 * rng.normal(size=120)
    fit, scaled = fit_logistic(x, y), fit_logistic(1e4 * x - 7, 0.01 * y + 3)
    assert scaled.plcc.value == pytest.approx(fit.plcc.value, abs=1e-9)
    assert scaled.rmse.value == pytest.approx(0.01 * fit.rmse.value, rel=1e-9)


@pytest.mark.parametrize("curve", ["logistic4", "logistic5"])
def test_a_predictor_that_ranks_the_wrong_way_gets_no_fit(curve: Curve) -> None:
    rng = np.random.default_rng(6)
    x = rng.uniform(1, 5, 200)
    fit = fit_logistic(x, -np.tanh(x - 3) + 0.2 * rng.normal(size=200), curve)
    assert math.isnan(fit.plcc.value)
    assert math.isnan(fit.rmse.value)
    assert fit.reason == "the best curve does not rise with the predictions"
    assert fit.parameters == ()
    assert np.isnan(fit(x)).all()


def test_no_fit_and_why() -> None:
    x = np.arange(5.0)
    assert fit_logistic(x, x).reason == "5 images, a fit of 4 parameters needs two more"
    assert fit_logistic(np.ones(9), np.arange(9.0)).reason == "all predictions are equal"
    assert fit_logistic([*x, math.nan], np.arange(6.0)).reason == (
        "1 of 6 predictions are not finite numbers"
    )


def test_a_fit_that_does_not_converge_reports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vqr1.iqa.logistic.MAX_STEPS", 1)
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 5, 200)
    fit = fit_logistic(x, np.tanh(x - 3) + 0.2 * rng.normal(size=200))
    assert fit.reason == "none of 8 starting points converged"
    assert (fit.starts, fit.converged) == (8, 0)


def test_a_near_fit_is_tried_first_and_gives_the_same_curve() -> None:
    rng = np.random.default_rng(7)
    x = rng.uniform(1, 5, 300)
    y = np.tanh(x - 3) + 0.3 * rng.normal(size=300)
    rows = rng.integers(0, 300, 300)
    for curve in PARAMETERS:
        near = fit_logistic(x[rows], y[rows], curve, near=fit_logistic(x, y, curve))
        assert near.starts == 1
        cold = fit_logistic(x[rows], y[rows], curve)
        assert near.rmse.value == pytest.approx(cold.rmse.value, rel=1e-4)


@pytest.mark.parametrize("curve", ["logistic4", "logistic5"])
def test_few_distinct_predictions(curve: Curve) -> None:
    """A policy that always answers 2, 3 or 4: the best curve passes through the three means."""
    x = np.repeat([2.0, 3.0, 4.0], 20)
    y = x + np.tile(np.linspace(-1, 1, 20), 3)
    fit = fit_logistic(x, y, curve)
    # Each group's mean is its x, so what remains is the standard deviation within the groups.
    assert fit.rmse.value == pytest.approx(np.linspace(-1, 1, 20).std(), rel=1e-5)
