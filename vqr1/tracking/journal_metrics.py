"""Metrics and parameters into a run's journal, for commands that keep theirs without Lightning.

Not here: the logger that Lightning's trainer takes (`vqr1.tracking.loggers`), which takes seconds
to import.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from vqr1.config.plain import flatten
from vqr1.tracking.journal import Journal
from vqr1.tracking.secrets import masked
from vqr1.tracking.sender import Sender


class JournalMetrics:
    """Whose metrics and parameters go to a run's journal.

    Args:
        journal: takes the events.
        sender: carries them to MLflow.
    """

    def __init__(self, journal: Journal, sender: Sender) -> None:
        super().__init__()
        self.journal = journal
        self.sender = sender

    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Keep parameters, nested ones under dotted keys."""
        values = vars(params) if isinstance(params, Namespace) else params
        self.journal.params(flatten(masked(values)))
        self.sender.notify()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep metrics at a step."""
        self.journal.metrics(metrics, step)
        self.sender.notify()

    def save(self) -> None:
        """Nothing: the journal has everything at once."""
