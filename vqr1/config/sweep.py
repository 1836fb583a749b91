"""Keys of sweeps (`conf/sweep/`)."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from vqr1.config.types import STRICT_KEYS, NonNegativeInt


@dataclass(config=STRICT_KEYS, kw_only=True)
class SweepConfig:
    """What one multirun (`-m`) continues and shows; a single run ignores it."""

    resume: str = "auto"
    """`auto` continues the last sweep of the same command beside `hydra.sweep.dir`, `never` begins
    a new one; else the MLflow id of a parent run, or a sweep's folder."""
    max_failures: NonNegativeInt | None = None
    """Failed jobs above which no further job begins; null lets all of them run."""
    metric: str | None = None
    """Metric of the summary, and what a search optimises. null: the first of `test/srcc_after`,
    `val/srcc_best`, `val/srcc` that the jobs have (a search never optimises a test metric)."""
    curve: str = "val/srcc"
    """Metric of the summary's curves; a search gives trials up by it."""
