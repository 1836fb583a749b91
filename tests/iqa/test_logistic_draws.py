"""Fits of all bootstrap draws at the same time are those of each draw alone."""

from __future__ import annotations

import numpy as np
import pytest

from vqr1.iqa.logistic import Curve, fit_logistic
from vqr1.iqa.logistic_draws import fit_draws


@pytest.mark.parametrize("curve", ["logistic4", "logistic5"])
@pytest.mark.parametrize(("n", "noise"), [(60, 0.5), (200, 1.5)])
def test_equal_the_fits_of_each_draw(curve: Curve, n: int, noise: float) -> None:
    rng = np.random.default_rng(1)
    quality = rng.normal(size=n)
    x = 3 + 0.6 * quality + 0.4 * rng.normal(size=n)
    y = 50 + 30 * np.tanh(1.2 * quality) + 30 * noise * rng.normal(size=n)
    fit = fit_logistic(x, y, curve)
    drawn = [rng.integers(0, n, n) for _ in range(30)]
    counts = np.array([np.bincount(rows, minlength=n) for rows in drawn], dtype=np.float64)
    together = fit_draws(x, y, counts, fit)
    # A draw may have two minima of nearly the same error: rounding decides, in few of them.
    alone = [fit_logistic(x[rows], y[rows], curve, near=fit) for rows in drawn]
    plcc = [(a.plcc.value, b.plcc.value) for a, b in zip(together, alone, strict=True)]
    assert sum(abs(a - b) > 1e-4 for a, b in plcc) <= 1
    assert [a.reason for a in together] == [b.reason for b in alone]


def test_degenerate_draws_have_the_reason_of_the_single_fit() -> None:
    x, y = np.arange(10.0), np.array([1.0, 1.2, 1.1, 2.0, 3.0, 3.3, 4.0, 4.1, 4.0, 4.2])
    fit = fit_logistic(x, y)
    # All draws the same image; five images, of which four parameters need six.
    counts = np.array([[10.0, *[0.0] * 9], [1.0, 1.0, 0, 0, 1.0, 0, 1.0, 0, 0, 1.0]])
    one, few = fit_draws(x, y, counts, fit)
    assert one.reason == "all predictions are equal"
    assert few.reason == "5 images, a fit of 4 parameters needs two more"
