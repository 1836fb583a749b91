"""Scatter plot of predicted score against MOS at each validation."""

from __future__ import annotations

import gc

import lightning as L
import numpy as np
from matplotlib.figure import Figure

from vqr1.evaluation.predictions import Predictions
from vqr1.iqa.correlation import srcc
from vqr1.tracking import RunLog
from vqr1.training.stages.module import StageModule


class ScatterPlot(L.Callback):
    """Logs the plot of the latest validation.

    Args:
        run_log: receives the figure.
    """

    def __init__(self, run_log: RunLog) -> None:
        self.run_log = run_log

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write `scatter/val_step_<step>.png`."""
        assert isinstance(pl_module, StageModule)
        predictions = pl_module.validator.predictions
        if predictions is not None:
            self.run_log.plot_of_step(
                "scatter/val",
                scatter_plot(predictions, f"validation, step {trainer.global_step}"),
                trainer.global_step,
            )
            # Its thousands of objects, megabytes with the pixels, refer to each other.
            gc.collect()


def scatter_plot(predictions: Predictions, title: str) -> Figure:
    """Predicted score against MOS, one panel for each data set.

    Args:
        predictions: scored images; those without a score are not drawn.
        title: what was scored.
    """
    sets = predictions.by_dataset()
    figure = Figure(figsize=(4.2 * len(sets), 4.0), layout="constrained")
    axes = figure.subplots(1, len(sets), squeeze=False)[0]
    for axis, (name, part) in zip(axes, sets.items(), strict=True):
        scores = part.image_scores()
        scored = np.isfinite(scores)
        axis.scatter(part.mos[scored], scores[scored], s=10, alpha=0.5, linewidths=0)
        correlation = srcc(scores[scored], part.mos[scored])
        axis.set_title(f"{name}: SRCC {correlation:.3f}, n={int(scored.sum())}", fontsize=10)
        axis.set_xlabel("MOS (on [1, 5] with mos_scale=minmax)")
        axis.set_ylabel("predicted score")
    figure.suptitle(title, fontsize=11)
    return figure
