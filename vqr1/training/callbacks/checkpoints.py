"""When a run is saved, and how it continues exactly where it was.

A checkpoint is taken between two steps: after a step's update and its metrics, and after the
validation that may follow it. It holds everything the rest of the run depends on: weights,
optimiser, schedule, step count, position in the order of batches (Lightning's part of the file),
random states, and which validation was the best so far. `step_<n>.ckpt` files are whole states, the
last few are kept; `best_<n>.ckpt` holds the weights of the best validation only, and is removed
after a better one is part of a saved state, never before. Sharded runs keep the tensors of both in
folders beside them (`vqr1.training.checkpoint_shards`).

Not here: how a file is written and verified (`vqr1.training.checkpoint_files`), and
finding the run to continue with (`vqr1.training.resume`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loops.fit_loop import _FitLoop

from vqr1.config import CheckpointConfig
from vqr1.distributed.collectives import all_gather_objects, get_rank, get_world_size
from vqr1.distributed.stop_requests import Looks, StopRequests
from vqr1.durable import remove_asides
from vqr1.errors import RolloutLostError, RunFaultError
from vqr1.evaluation.metrics import METRICS, Metric, higher_is_better
from vqr1.tracking.loggers import save_logs
from vqr1.training.checkpoint_files import (
    CheckpointDamagedError,
    CheckpointNotWrittenError,
    checkpoints,
    load_checkpoint,
    remove_checkpoint,
    step_name,
    step_of,
    superseded,
    verify_on_all_ranks,
    write_checkpoint,
)
from vqr1.training.checkpoint_shards import all_read, remove_unnamed
from vqr1.training.random_state import random_state, set_random_state
from vqr1.training.stages.module import StageModule

logger = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's seam for files: whole or not at all. The caller verifies before it loads."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write atomically with a checksum.

        Raises:
            CheckpointNotWrittenError: too little room, or the write failed.
        """
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, *how: Any, **else_how: Any) -> dict[str, Any]:
        """Tensors on the CPU and nothing that runs, however Lightning asks."""
        # An optimiser on the CPU takes them as they are, and would hold on to a deleted file.
        content = load_checkpoint(Path(path), mapped=torch.cuda.is_available())
        read: dict[str, Any] = all_read(content)
        return read


class RunCheckpoints(Checkpoint):
    """Saves a run, and stops it between two steps when a signal asks for that.

    Args:
        config: what is kept and what counts as best; None saves nothing.
        folder: receives the files.
        stops: what asks the run to stop.
        val_every: batches from one validation to the next.
        metrics: what validations log, for the direction of the monitored metric.
        chooses: keep the best weights; else those of the last step count.
    """

    def __init__(
        self,
        config: CheckpointConfig | None,
        folder: Path,
        stops: StopRequests,
        val_every: int,
        metrics: Sequence[Metric] = METRICS,
        chooses: bool = True,
    ) -> None:
        self.config = config
        self._chooses = chooses
        self.folder = folder
        self.stops = stops
        self.val_every = val_every
        self.best_step: int | None = None
        self.best_score = -math.inf
        rises = config is None or higher_is_better(config.monitor, metrics)
        self._sign = 1.0 if rises else -1.0
        self.best_metrics: dict[str, float] = {}
        self._undefined = 0
        self._batches = 0
        self._random: dict[str, Any] = {}
        self._random_of_others: list[dict[str, Any]] = []
        self._position: dict[str, Any] = {}
        self._looks: Looks | None = None
        self._validation_pending = False
        self._resumed = False
        self._saved_step: int | None = None
        self._sound: set[int] = set()

    @property
    def validation_pending(self) -> bool:
        """Whether the last step is still to be validated."""
        return self._validation_pending

    @property
    def best_path(self) -> Path | None:
        """The weights of the best validation so far."""
        return None if self.best_step is None else self.folder / step_name("best", self.best_step)

    def forget_damaged_best(self) -> None:
        """Continue without the weights of the best validation if their file is not intact.

        All ranks call it, and decide alike.
        """
        if self.best_path is None:
            return
        try:
            verify_on_all_ranks(self.best_path)
        except CheckpointDamagedError as error:
            logger.warning("the best weights so far are lost, they count no more: %s", error)
            self._forget_best()

    def _forget_best(self) -> None:
        self.best_step, self.best_score, self.best_metrics = None, -math.inf, {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside Lightning's own state."""
        return {
            "batches": self._batches,
            "random": self._random,
            "random_of_others": self._random_of_others,
            "validation_pending": self._validation_pending,
            "best_step": self.best_step,
            "best_score": self.best_score,
            "best_metrics": self.best_metrics,
            "undefined": self._undefined,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a saved state; it is put in place when the fit starts."""
        self._batches = state_dict["batches"]
        saved = [state_dict["random"], *state_dict.get("random_of_others", [])]
        # A forced resume may have more processes than were saved.
        self._random = saved[get_rank()] if get_rank() < len(saved) else random_state()
        self._validation_pending = state_dict["validation_pending"]
        self.best_step = state_dict["best_step"]
        self.best_score = state_dict["best_score"]
        # A state from before held the monitored value alone.
        monitored = self._sign * self.best_score
        monitor = {} if self.config is None else {self.config.monitor: monitored}
        self.best_metrics = state_dict.get("best_metrics", monitor)
        self._undefined = state_dict.get("undefined", 0)
        if not math.isfinite(self.best_score):
            # And kept the weights of an undefined validation as the best ones.
            self._forget_best()
        self._resumed = True

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Clear away what an interrupted write has left."""
        if get_rank() == 0:
            remove_asides(self.folder)
            remove_unnamed(self.folder)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the start, which shows that the disk takes a checkpoint; or continue."""
        # Lightning's handler of SIGTERM, set after `on_fit_start`, talks to the other processes
        # from within whatever they are reporting each other, and would hang.
        self.stops.install()
        self._position = _data(trainer).state_dict()
        if not self._resumed:
            self._random = random_state()
            self._save(trainer)
            return
        self._saved_step = trainer.global_step
        # Later ones are damaged: this state was the newest intact one.
        steps = {step_of(path) for path in checkpoints(self.folder, "step")}
        self._sound = {step for step in steps if step <= trainer.global_step}
        self.forget_damaged_best()
        continue_between_batches(trainer, self._batches)
        if self._validation_pending:
            self._validate(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Put the random states back: making the loaders may have drawn."""
        if self._resumed:
            set_random_state(self._random)
            self._resumed = False

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *unused: Any
    ) -> None:
        """Save at the interval, and on a signal; where a validation follows, it comes first."""
        self._batches = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        self._random = random_state()
        self._position = _data(trainer).state_dict()
        self._validation_pending = self._batches % self.val_every == 0
        if self.stops.asked():
            self._stop(trainer)
        if not self._validation_pending and self._due(trainer):
            self._save(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to look for a signal after every batch."""
        self.stops.install()
        self._looks = Looks(self.stops, int(sum(trainer.num_val_batches)))

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *unused: Any
    ) -> None:
        """On a signal, save the step before the validation, which the resumed run then repeats."""
        assert self._looks is not None
        if self._looks.after_batch():
            self._stop_validation(trainer)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look as often as the other processes do."""
        assert self._looks is not None
        if self._looks.after_all():
            self._stop_validation(trainer)

    def _stop_validation(self, trainer: L.Trainer) -> None:
        assert isinstance(trainer.lightning_module, StageModule)
        trainer.lightning_module.end_validation()
        if trainer.state.fn == "fit":
            self._stop(trainer)
        self.stops.check()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the best weights, then save."""
        if trainer.state.fn != "fit":
            return
        self._validation_pending = False
        self._keep_best(trainer)
        # A state of this step was saved before its validation, and would repeat it.
        if self._due(trainer) or self._saved_step == trainer.global_step:
            self._save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the end; warn where no validation could choose the weights."""
        if self._saved_step != trainer.global_step:
            self._save(trainer)
        if self.config is not None and self.best_step is None and self._undefined:
            logger.warning(
                "callbacks.checkpoint.monitor=%s was undefined in all %d validations%s: the weights"
                " of the last step are exported",
                self.config.monitor, self._undefined, _reason(trainer, self.config.monitor),
            )  # fmt: skip

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Save the step before the one whose responses did not come."""
        if not isinstance(exception, RolloutLostError) or trainer.state.fn != "fit":
            return
        if trainer.validating and get_world_size() > 1:
            return  # the other processes do not know
        assert isinstance(trainer.lightning_module, StageModule)
        trainer.lightning_module.end_validation()
        # The data count a batch when it is handed out.
        _data(trainer).load_state_dict(self._position)
        if self._saved_step != trainer.global_step:
            self._save(trainer)

    def _stop(self, trainer: L.Trainer) -> None:
        if self._saved_step != trainer.global_step:
            self._save(trainer)
        self.stops.check()

    def _due(self, trainer: L.Trainer) -> bool:
        if self.config is None or self.config.every_steps is None:
            return not self._validation_pending and self._batches % self.val_every == 0
        every = self.config.every_steps
        return trainer.global_step // every > (self._saved_step or 0) // every

    def _keep_best(self, trainer: L.Trainer) -> None:
        if self.config is None or not self._chooses:
            return
        score = self._sign * float(trainer.callback_metrics[self.config.monitor])
        if not math.isfinite(score):
            # Nothing was measured, so nothing can be best: without any number the last weights
            # count.
            self._undefined += 1
            return
        # Of equal values the earliest stays: later steps have shown nothing more.
        if not score > self.best_score:
            return
        path = self.folder / step_name("best", trainer.global_step)
        if self._write(trainer, path, weights_only=True):
            self.best_score, self.best_step = score, trainer.global_step
            self.best_metrics = {
                name: float(value)
                for name, value in trainer.callback_metrics.items()
                if name.startswith("val/") and math.isfinite(float(value))
            }

    def _save(self, trainer: L.Trainer) -> None:
        if self.config is None:
            return
        # Metrics first: those of a step that a checkpoint holds are never logged again.
        save_logs(trainer.loggers)
        step = trainer.global_step
        self._random_of_others = all_gather_objects(self._random)[1:]
        if not self._write(trainer, self.folder / step_name("step", step)):
            return
        self._saved_step = step
        self._sound.add(step)
        if get_rank():
            return
        for old in superseded(checkpoints(self.folder, "step"), self._sound, self.config.keep):
            remove_checkpoint(old)
        for old in checkpoints(self.folder, "best"):
            if step_of(old) != self.best_step:
                remove_checkpoint(old)
        remove_unnamed(self.folder)

    def _write(self, trainer: L.Trainer, path: Path, weights_only: bool = False) -> bool:
        assert self.config is not None
        try:
            trainer.save_checkpoint(path, weights_only)
        except CheckpointNotWrittenError as error:
            kept = [x for x in checkpoints(self.folder, "step") if step_of(x) in self._sound]
            rest = f"the last good one is {kept[-1].name}" if kept else "there is none yet"
            message = f"checkpoint not written: {error}; {rest}"
            if self.config.on_failed_write == "stop":
                raise RunFaultError(f"{message}. Make room and resume the run") from error
            logger.warning("%s; the run continues", message)
            return False
        return True

    def _validate(self, trainer: L.Trainer) -> None:
        """Run the validation that the saved step still waits for, as Lightning's loop does."""
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.run()
        trainer.training = True


class FitLoop(_FitLoop):
    """Lightning's loop, entered after the last step too where that is still to be validated.

    Args:
        trainer: whose loop it replaces.
    """

    def __init__(self, trainer: L.Trainer) -> None:
        super().__init__(trainer, trainer.min_epochs, trainer.max_epochs)
        self.epoch_loop = trainer.fit_loop.epoch_loop

    @property
    def skip(self) -> bool:
        """Whether there is nothing to do."""
        kept = self.trainer.checkpoint_callback
        return super().skip and not (isinstance(kept, RunCheckpoints) and kept.validation_pending)


def _data(trainer: L.Trainer) -> L.LightningDataModule:
    """The data of a run, which know their place in the order of batches."""
    owner: Any = trainer
    data: L.LightningDataModule = owner.datamodule
    return data


def _reason(trainer: L.Trainer, monitor: str) -> str:
    """Why the monitored metric of the last validation is undefined, where rank 0 knows."""
    assert isinstance(trainer.lightning_module, StageModule)
    reason = trainer.lightning_module.validator.reasons.get(monitor)
    return f" ({reason})" if reason else ""


def continue_between_batches(trainer: L.Trainer, batches: int) -> None:
    """Make Lightning continue after `batches` whole batches.

    Lightning saves its progress inside of a batch and then guesses what was still to be done; ours
    is saved when nothing was. Its count within the epoch stays 0, and the sampler, which yields the
    rest of the epoch only, ends that epoch.
    """
    loop = trainer.fit_loop.epoch_loop
    total: Any = loop.batch_progress.total
    total.ready = total.started = total.processed = total.completed = batches
    loop._batches_that_stepped = batches
    loop.restarting = False
    loop.reset_restart_stage()
    loop.val_loop.reset_restart_stage()
