"""The figure of a finished run: what its command returns, and what a sweep optimises."""

from __future__ import annotations

import json
from pathlib import Path

from vqr1.errors import DataError


def figure_of(run_dir: Path) -> float:
    """Test SRCC after training; without a test, validation SRCC of the best checkpoint.

    Raises:
        DataError: the run's summary is missing or damaged.
    """
    path = run_dir / "summary.json"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        figure = summary["test_srcc_after"]
        figure = summary["val_srcc_best"] if figure is None else figure
        return float("nan") if figure is None else float(figure)
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: this run has finished, but its summary is missing or damaged; restore it, or "
            "start a new run"
        ) from error
