"""TensorBoard and Weights & Biases by Lightning's own loggers, beside MLflow or without it.

They take metrics and parameters; tables, plots and texts stay files of the run directory. A resumed
run continues in the same folder (TensorBoard) or run (wandb), and what it does again stands there
twice: exact resume, sweeps and comparison rely on MLflow alone.

Not here: MLflow and `metrics.csv` (`vqr1.tracking.loggers`).
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from vqr1.config import LoggerConfig
from vqr1.durable import make_folder, write_file
from vqr1.errors import ConfigError
from vqr1.program import installing
from vqr1.tracking.store import one_line

if TYPE_CHECKING:
    # Lightning takes seconds to import.
    from lightning.pytorch.loggers import Logger

Ending = Literal["FINISHED", "FAILED", "KILLED"]

TENSORBOARD_FOLDER = "tensorboard"
"""Folder of the event files in a run directory."""
WANDB_FOLDER = "wandb"
"""Folder of wandb's own files in a run directory."""
WANDB_ID = "wandb_id"
"""File in it that holds the run's id."""


@runtime_checkable
class EndingLogger(Protocol):
    """A logger that needs to know how the run ended."""

    def end(self, status: Ending) -> None:
        """Close it."""


def logger_problems(config: LoggerConfig) -> list[str]:
    """A line for each logger whose package is not installed."""
    missing = [k for k in config.kinds if k in ("tensorboard", "wandb") and find_spec(k) is None]
    return [f"logger={k}: {k} is not installed; {installing(k)}" for k in missing]


def open_tensorboard(run_dir: Path, resume: bool) -> Logger:
    """A logger of TensorBoard event files in the run directory.

    Args:
        run_dir: the run's folder.
        resume: keep the event files that are there; otherwise they are deleted.
    """
    from lightning.pytorch.loggers import TensorBoardLogger

    class RunTensorBoard(TensorBoardLogger):
        """Stays open when Lightning ends one of a run's several loops."""

        def log_hyperparams(
            self, params: Any, metrics: Any = None, step: int | None = None
        ) -> None:
            super().log_hyperparams(params, metrics, step)
            assert self.experiment is not None  # makes the folder
            # Lightning writes this file once, with what was known at the first metric.
            Path(self.log_dir, self.NAME_HPARAMS_FILE).unlink(missing_ok=True)
            self.save()

        def finalize(self, status: str) -> None:
            self.save()

        def end(self, status: Ending) -> None:
            super().finalize(status)

    if not resume:
        shutil.rmtree(run_dir / TENSORBOARD_FOLDER, ignore_errors=True)
    return RunTensorBoard(run_dir, name="", version=TENSORBOARD_FOLDER, default_hp_metric=False)


def open_wandb(
    config: LoggerConfig, run_dir: Path, name: str, tags: Mapping[str, str], resume: bool
) -> Logger:
    """A logger of a wandb run, which is begun here.

    Args:
        config: names the project; states whether the run stays on this machine.
        run_dir: the run's folder; wandb's own files go below it.
        name: name of the run.
        tags: kept in its configuration, because wandb's tags have no values.
        resume: continue with the run whose id the folder holds.

    Raises:
        ConfigError: wandb cannot begin a run.
    """
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    class RunWandb(WandbLogger):
        """Ends its run with the exit code of the training."""

        def end(self, status: Ending) -> None:
            self.experiment.finish(exit_code=0 if status == "FINISHED" else 1)

    logger = RunWandb(
        name=name,
        save_dir=run_dir,
        version=_wandb_id(run_dir, resume),
        project=config.experiment,
        mode="offline" if config.offline else None,  # None: as the variable WANDB_MODE states
        settings=wandb.Settings(init_timeout=config.wait_seconds),
    )
    try:
        run = logger.experiment
    except (wandb.errors.Error, OSError) as error:
        raise ConfigError(
            [
                f"logger=wandb: {one_line(error)}; log in by `wandb login`, or set "
                "logger.offline=true"
            ]
        ) from error
    run.config.update({"tags": dict(tags)}, allow_val_change=True)
    return logger


def _wandb_id(run_dir: Path, resume: bool) -> str:
    file = run_dir / WANDB_FOLDER / WANDB_ID
    if resume and file.is_file():
        return file.read_text(encoding="utf-8")
    chosen = uuid.uuid4().hex[:12]
    make_folder(file.parent)
    write_file(file, chosen)
    return chosen
