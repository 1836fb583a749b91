"""Evaluate with a metric of your own: the mean error of scores, with its interval."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd

from vqr1.cli.evaluate import main
from vqr1.evaluation.metrics import MetricInputs


def mean_error(inputs: MetricInputs) -> float:
    """Mean of |score - MOS| over the images."""
    return float(np.abs(inputs.scores - inputs.mos).mean())


if __name__ == "__main__":
    # Predictions of any scorer; without `predictions=` the model's are evaluated.
    mos = np.linspace(1, 5, 40)
    table = pd.DataFrame({"image": range(40), "score": mos + np.sin(9 * mos) / 2, "mos": mos})
    table.to_csv("own_predictions.csv", index=False)
    sys.argv[1:1] = [
        "predictions=own_predictions.csv",
        "+metrics.mean_error._target_=own_metric.mean_error",
        "+metrics.mean_error.label=mean error",
        "+metrics.mean_error.higher_is_better=false",
        "+metrics.mean_error.averageable=false",
    ]
    main()
