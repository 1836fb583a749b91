"""Keys of `vqr1 export` (`conf/export.yaml`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from vqr1.config.machine import LoggerConfig
from vqr1.config.types import STRICT_KEYS


@dataclass(config=STRICT_KEYS, kw_only=True)
class ExportConfig:
    """`vqr1 export`."""

    run: str | None = None
    """What is exported, not null: the run directory of a training, an MLflow run id, or
    `best`: the finished run of `logger.experiment` with the highest `<run_metric>_best`, where
    all trained on the same data sets."""
    run_metric: str = "val/srcc"
    """Metric that `run=best` compares, higher is better."""
    checkpoint: Literal["best", "last"] | None = None
    """Weights of the best validation so far, or of the last saved step, from `checkpoints/` of the
    run directory, also of a run that was stopped; null: what the run exported at its end."""
    output: str
    """Folder that is made; it must not exist."""
    title: str | None = None
    """Name on the model card; null: that of the run directory."""
    license: str | None = None
    """Licence of the weights on the model card, such as `apache-2.0`; null: the base model's."""
    push: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None = None
    """Repository of the hub that the folder is uploaded to; null contacts nobody."""
    private: bool = True
    """With `push`: whether a repository that does not exist yet is made private."""
    logger: LoggerConfig
    """Which MLflow store and experiment `run` is looked for in."""
