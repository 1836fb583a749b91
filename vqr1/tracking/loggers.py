"""Lightning loggers that leave the end of the run to `RunLog`.

Lightning finalises its loggers after every `validate`, `fit` and `test`. A run of ours holds
several of these: one that is killed in the second would already be marked as finished.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, MLFlowLogger


class OpenMLFlowLogger(MLFlowLogger):
    """MLflow logger whose run stays open until `RunLog` closes it."""

    def finalize(self, status: str = "success") -> None:
        """Nothing: the run goes on."""


def csv_logger(folder: Path) -> CSVLogger:
    """Logger that writes `metrics.csv` into a run's folder."""
    logger = CSVLogger(folder, name="", version="")
    with warnings.catch_warnings():
        # The folder holds the run's other files; only an old metrics.csv would be replaced.
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
        _ = logger.experiment
    return logger
