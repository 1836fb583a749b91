"""A slow evaluation without a model, to be killed.

An image's score depends on its name only, as an engine's answers depend on the image only.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from vqr1.evaluation.partial_predictions import (
    PlannedBatch,
    merge,
    partials,
    read_partials,
    remaining,
)
from vqr1.evaluation.prediction_file import PredictionStream
from vqr1.evaluation.predictions import Predictions

PLAN = [
    PlannedBatch("demo", tuple(f"{batch:03d}_{i}.png" for i in range(5))) for batch in range(40)
]


def scored(batch: PlannedBatch, number: int) -> Predictions:
    """The answers of a batch: 2 an image, some invalid."""
    n = len(batch.images)
    rng = np.random.default_rng(number)
    scores = rng.uniform(1, 5, (n, 2))
    scores[rng.random((n, 2)) < 0.1] = np.nan
    return Predictions(
        images=batch.images,
        datasets=(batch.dataset,) * n,
        index=np.arange(n) + n * number,
        mos=rng.uniform(1, 5, n),
        scores=scores,
        valid=np.isfinite(scores),
        format_compliant=np.isfinite(scores),
        texts=tuple(("line\nbreak", "x" * 2000) for _ in range(n)),
    )


def main(run_dir: Path, pause: float) -> None:
    """Continue and, if not killed, finish."""
    left = remaining(PLAN, read_partials(run_dir))
    stream = PredictionStream(partials(run_dir).of(0))
    for number in left:
        stream.append(scored(PLAN[number], number))
        time.sleep(pause)
    stream.close()
    merge(run_dir, PLAN, ".csv")
