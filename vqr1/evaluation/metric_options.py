"""How an evaluation computes its metrics: the options that all of its modules share.

Not here: which metrics there are (`vqr1.evaluation.metrics`).
"""

from __future__ import annotations

from dataclasses import dataclass

from vqr1.evaluation.metrics import METRICS, Metric
from vqr1.evaluation.predictions import Resample, ScoreRule
from vqr1.iqa.logistic import Curve


@dataclass(frozen=True)
class MetricOptions:
    """How metrics are computed.

    Attributes:
        curves: logistic maps to fit; the first is the one of plots and calibration.
        rule: which images have a score.
        resample: what the bootstrap draws; `auto` takes references where at least five are shared
            by images, else images.
        draws: D; 0 computes no intervals.
        level: confidence level.
        seed: seed of the draws.
        metrics: the metrics of scores as they are.
    """

    curves: tuple[Curve, ...] = ("logistic4", "logistic5")
    rule: ScoreRule = "valid_mean"
    resample: Resample = "auto"
    draws: int = 1000
    level: float = 0.95
    seed: int = 0
    metrics: tuple[Metric, ...] = METRICS
