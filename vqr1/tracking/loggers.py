"""Lightning loggers: one that writes to the run's journal, one that writes `metrics.csv`.

Lightning finalises its loggers after every `validate`, `fit` and `test`. A run of ours holds
several of these, so that nothing ends there: `RunLog` closes the run.
"""

from __future__ import annotations

import csv
import io
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from vqr1.durable import make_folder, remove_file, sync, write_file
from vqr1.tracking.journal_metrics import JournalMetrics
from vqr1.tracking.logged import whole_lines


class JournalLogger(JournalMetrics, Logger):
    """Lightning logger whose metrics and parameters go to a run's journal."""

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
        super().log_hyperparams(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep metrics at a step."""
        super().log_metrics(metrics, step)


class CsvMetricsLogger(CSVLogger):
    """Writes `metrics.csv` into a run's folder; a resumed run logs no key twice at one step.

    Args:
        folder: the run's folder.
        resume: continue with the file that is there; otherwise it is replaced.
    """

    def __init__(self, folder: Path, resume: bool) -> None:
        super().__init__(folder, name="", version="")
        self._logged: set[tuple[str, int]] = set()
        make_folder(folder)
        writer = _CsvWriter(str(folder))
        self._experiment = writer
        path = Path(writer.metrics_file_path)
        if not resume or not path.is_file():
            remove_file(path)
            return
        rows = csv.DictReader(io.StringIO(whole_lines(path.read_text(encoding="utf-8"))))
        kept = list(rows)
        writer.metrics_keys = list(rows.fieldnames or [])
        _write_rows(path, writer.metrics_keys, kept)
        self._logged = {
            (key, int(row["step"])) for row in kept for key, value in row.items() if value
        }

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Keep metrics at a step."""
        new = {key: v for key, v in metrics.items() if (key, step or 0) not in self._logged}
        if new:
            super().log_metrics(new, step or 0)

    @rank_zero_only
    def sync(self) -> None:
        """Return once the rows are on the disk, if that takes them."""
        with suppress(OSError):
            sync(Path(self.experiment.metrics_file_path))


def save_logs(loggers: Sequence[Logger]) -> None:
    """Save what loggers keep, ours through to the disk."""
    for logger in loggers:
        logger.save()
        if isinstance(logger, CsvMetricsLogger):
            logger.sync()
        elif isinstance(logger, JournalLogger):
            logger.journal.sync()


class _CsvWriter(ExperimentWriter):
    """Lightning's writer, which neither empties the folder nor is ever without a whole file."""

    def _check_log_dir_exists(self) -> None:
        """The run's other files may be there; which `metrics.csv` stays, the logger decides."""

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        path = Path(self.metrics_file_path)
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        _write_rows(path, fieldnames, rows)


def _write_rows(path: Path, fieldnames: list[str], rows: list[dict[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=fieldnames)
    writer.writeheader()
    writer.writerows(rows)
    write_file(path, text.getvalue())
