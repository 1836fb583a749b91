"""A table of sample answers at each validation, so that one sees what the policy states."""

from __future__ import annotations

import lightning as L
import numpy as np
import pandas as pd

from vqr1.evaluation.predictions import Predictions
from vqr1.tracking import RunLog
from vqr1.training.stages.module import StageModule


class SampleAnswers(L.Callback):
    """Logs the first answers to some validation images.

    Args:
        run_log: receives the table.
        count: answers to keep.
    """

    def __init__(self, run_log: RunLog, count: int) -> None:
        self.run_log = run_log
        self.count = count

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write `answers/step_<step>`."""
        assert isinstance(pl_module, StageModule)
        predictions = pl_module.validator.predictions
        if predictions is not None and self.count:
            table = answer_table(predictions, self.count)
            table.insert(0, "step", trainer.global_step)
            self.run_log.table(f"answers/step_{trainer.global_step:06d}", table)


def answer_table(predictions: Predictions, count: int) -> pd.DataFrame:
    """First answers to `count` images, with their MOS as rewards see it.

    The images are drawn once and for all: regular steps through a set that is ordered by reference,
    distortion and level would meet the same distortion again and again.
    """
    drawn = np.random.default_rng(0).permutation(len(predictions))[:count]
    return pd.DataFrame(
        [
            {
                "dataset": predictions.datasets[i],
                "image": predictions.images[i],
                "mos": round(float(predictions.mos[i]), 3),
                "score": round(float(predictions.scores[i, 0]), 3),
                "valid": bool(predictions.valid[i, 0]),
                "response": predictions.texts[i][0],
            }
            for i in sorted(drawn)
        ]
    )
