"""Experiment tracking: where metrics, tables, metrics and configurations of a run go."""

from vqr1.tracking.run_log import NoRunLog, RunLog, open_run_log

__all__ = ["NoRunLog", "RunLog", "open_run_log"]
