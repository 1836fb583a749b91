"""Entries of the registry that are computed on request: `metrics=pairs`, `metrics=observers`.

They compare pairs of images, or need the observers' standard deviations, which few sets have.
Not here: the formulas and their sources (`vqr1.iqa.observers`).
"""

from __future__ import annotations

from vqr1.evaluation.metrics import MetricInputs
from vqr1.iqa import observers as statistics
from vqr1.iqa.correlation import MetricValue


def pair_accuracy(inputs: MetricInputs) -> MetricValue:
    """Share of pairs in the right order (2AFC)."""
    return statistics.pair_accuracy(inputs.scores, inputs.mos)


def different_similar(inputs: MetricInputs, observers: float) -> MetricValue:
    """Krasula's AUC of different against similar pairs."""
    return statistics.different_similar(inputs.scores, inputs.mos, inputs.mos_std, observers)


def better_worse(inputs: MetricInputs, observers: float) -> MetricValue:
    """Krasula's AUC of better against worse within different pairs."""
    return statistics.better_worse(inputs.scores, inputs.mos, inputs.mos_std, observers)


def outlier_ratio(inputs: MetricInputs) -> MetricValue:
    """Share of images whose fitted score is more than two standard deviations off."""
    return statistics.outlier_ratio(inputs.scores, inputs.mos, inputs.mos_std)


def residual_f(inputs: MetricInputs) -> MetricValue:
    """Variance of the residuals / mean variance of single ratings."""
    return statistics.residual_f(inputs.scores, inputs.mos, inputs.mos_std)
