"""Lightning loggers: one that writes to the run's journal, one that writes `metrics.csv`.

Lightning finalises its loggers after every `validate`, `fit` and `test`. A run of ours holds
several of these, so that nothing ends there: `RunLog` closes the run.
"""

from __future__ import annotations

import warnings
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.logger import _convert_params, _flatten_dict
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from vqr1.tracking.journal import Journal
from vqr1.tracking.secrets import masked
from vqr1.tracking.sender import Sender


class JournalLogger(Logger):
    """Lightning logger whose metrics and parameters go to a run's journal.

    Args:
        journal: takes the events.
        sender: carries them to MLflow.
    """

    def __init__(self, journal: Journal, sender: Sender) -> None:
        super().__init__()
        self.journal = journal
        self.sender = sender

    @property
    def name(self) -> str:
        """The logger's name, in Lightning's words."""
        return "mlflow"

    @property
    def version(self) -> str | None:
        """The MLflow run's id, once the server has it."""
        return self.sender.run_id

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Keep parameters, nested ones under dotted keys."""
        self.journal.params(_flatten_dict(masked(_convert_params(params)), "."))
        self.sender.notify()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep figures at a step."""
        self.journal.metrics(metrics, step)
        self.sender.notify()


def csv_logger(folder: Path) -> CSVLogger:
    """Logger that writes `metrics.csv` into a run's folder."""
    logger = CSVLogger(folder, name="", version="")
    with warnings.catch_warnings():
        # The folder holds the run's other files; only an old metrics.csv would be replaced.
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
        _ = logger.experiment
    return logger
