"""What the modules of all stages share: weights, optimiser steps, validation, logging.

A stage's step computes losses of micro-batches; `update` adds their gradients up, over the ranks
too, and takes one optimiser step. Each rank has its share of a step's images, and the full weights
or a shard of them (`vqr1.distributed`); W ranks of B images take the step that one rank of W B
images takes, if the losses are sums with the denominators of all ranks.

Not here: what a step learns from (`grpo.py` and its neighbours), checkpoints, tables and plots
(callbacks). Shapes: see `vqr1.records`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from vqr1.config import TrainConfig
from vqr1.distributed.shard_files import StoredTensor
from vqr1.distributed.sharding import Replicated, Sharding
from vqr1.policy.export import export_checkpoint
from vqr1.policy.loading import Policy, vision_trains
from vqr1.policy.reference import Reference
from vqr1.policy.training_prompt import vision_id_of, write_training_prompt
from vqr1.policy.vision import VisionCache, VisionFeatures, encode_images, rows_are_kept
from vqr1.records import PromptBatch, RankingBatch
from vqr1.rollout.engine import RolloutEngine, ScoringEngine
from vqr1.training.optimizer_state import renumber
from vqr1.training.schedule import adamw
from vqr1.training.step import StepRecord, UpdateSettings
from vqr1.training.validation import Validator


class StageModule(L.LightningModule):
    """A policy that is trained and validated; a stage adds `training_step`.

    Args:
        policy: the model to train.
        engine: samples responses from `policy.model`, or scores by it.
        validator: evaluates validation batches.
        settings: the optimiser steps' settings.
        vision_cache: keeps the features of the tower that does not change: the policy's where it is
            frozen, else the reference's. None computes them at every step.
    """

    last_step: StepRecord | None

    def __init__(
        self,
        policy: Policy,
        engine: RolloutEngine | ScoringEngine,
        validator: Validator,
        settings: UpdateSettings,
        vision_cache: VisionCache | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = policy.model
        self.policy = policy
        self.engine = engine
        self.validator = validator
        self.vision_cache = vision_cache
        self.last_step = None
        self._update_settings = settings
        self.sharding: Sharding
        self.shard(Replicated())
        self._validating = ExitStack()

    @property
    def reference(self) -> Reference | None:
        """Frozen weights that the step compares the policy with; None where there are none."""
        return None

    def shard(self, sharding: Sharding) -> None:
        """Work with weights that are sharded so; strategies call it, nothing else sets it."""
        self.sharding = sharding

    def unshard(self, policy: Policy) -> None:
        """Continue with full weights in this process, on all ranks at once.

        Args:
            policy: takes the weights.
        """
        with torch.no_grad():
            places = policy.model.state_dict()
            for name, full in self.sharding.full_weights(self.model):
                places[name].copy_(full)
        self.sharding.close()
        self.shard(Replicated())
        self.policy, self.model = policy, policy.model

    def load_weights(self, saved: Mapping[str, Any]) -> None:
        """Take the weights of a checkpoint; those of shards one by one: eight copies fit no host.

        Args:
            saved: tensors, or where they are stored, by name.
        """
        if not any(isinstance(value, StoredTensor) for value in saved.values()):
            self.load_state_dict(saved)
            return
        places = self.state_dict()
        for name in places.keys() | saved.keys():
            places[name].copy_(saved[name].read())

    def configure_optimizers(self) -> Any:
        """AdamW over all trainable parameters, and its schedule stepped with every update."""
        settings = self._update_settings
        optimizer, schedule = adamw(self.model, settings.optimizer, settings.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take optimizer state that was saved under another `hardware.strategy`."""
        renumber(checkpoint, self.model, self._update_settings.optimizer)

    @property
    def learning_rate(self) -> float:
        """That of the next update."""
        return float(self.trainer.optimizers[0].param_groups[0]["lr"])

    def update(
        self,
        parts: Sequence[slice],
        vision: VisionFeatures,
        loss_of: Callable[[slice, VisionFeatures], Tensor],
        idle: Callable[[VisionFeatures], Tensor],
    ) -> float:
        """One optimiser step, its gradient added up over micro-batches and ranks.

        Args:
            parts: this rank's micro-batches; none where nothing of its images is learned from.
            vision: features of the step's images, with history where the tower trains.
            loss_of: loss of one micro-batch, given the features to use; a sum with the denominators
                of the whole step.
            idle: any scalar of a pass through the same weights, for a rank that has fewer
                micro-batches than another while weights are sharded.

        Returns:
            Norm of the gradient before clipping. Where it is not finite the update is skipped.
        """
        optimizer: Any = self.optimizers()
        schedule: Any = self.lr_schedulers()
        # Micro-batches collect their gradients on the leaves; the tower goes backwards once.
        leaves = vision.leaves() if vision_trains(self.model) else vision
        # Asked before the first pass: in one, the others may wait for this process already.
        passes = self.sharding.same_passes(len(parts))
        for part in parts:
            self.sharding.backward(self, loss_of(part, leaves))
        for _ in range(passes - len(parts)):
            self.sharding.backward(self, 0.0 * idle(leaves))
        if leaves is not vision:
            self.sharding.backward_vision(vision, leaves)
        grad_norm = self.sharding.finish_gradients(
            self.model, self._update_settings.optimizer.max_grad_norm
        )
        if not math.isfinite(grad_norm):
            # A loss that is no number has such a gradient, in all processes at once. AdamW's
            # optimizer state would never get rid of it.
            self.sharding.zero_grad(optimizer)
        # Without any signal no parameter has a gradient and AdamW changes nothing; the step is
        # still taken so that step count and schedule continue.
        optimizer.step()
        schedule.step()
        # Not kept until the next update: the rollout and the reference pass need the memory.
        self.sharding.zero_grad(optimizer)
        return grad_norm

    def export(self, folder: Path, config: TrainConfig) -> None:
        """Write what was trained.

        Args:
            folder: made, or replaced as a whole once all is written.
            config: of the run.
        """
        export_checkpoint(self.policy, folder)
        prompt = config.prompt
        vision_id = vision_id_of(prompt, config.model)
        write_training_prompt(
            folder, vision_id, prompt.images, prompt.system, prompt.enable_thinking
        )

    def on_validation_epoch_start(self) -> None:
        """Put the weights together: processes may evaluate different numbers of images."""
        self._validating.enter_context(self.sharding.unsharded())
        self.engine.synchronise()

    def end_validation(self) -> None:
        """Shard the weights again, after a validation or where it is broken off."""
        self._validating.close()

    def validation_step(self, batch: RankingBatch, batch_idx: int) -> None:
        """Evaluate one batch of validation images."""
        self.validator.add(batch)

    def on_validation_epoch_end(self) -> None:
        """Log `val/srcc` and its companions."""
        self.end_validation()
        # An undefined metric is logged as NaN, and never chooses the best checkpoint.
        metrics = self.validator.finish()
        self._log({f"val/{name}": value for name, value in metrics.items()})

    def _encode_trained(self, batch: RankingBatch) -> VisionFeatures:
        """Image features under the current weights, with history."""
        alone = isinstance(self.sharding, Replicated)
        with torch.enable_grad():
            if alone and self.vision_cache is not None and rows_are_kept(self.model):
                return self.vision_cache.encode(self.model, batch.prompts)
            return encode_images(self.model, batch.prompts, at_once=not alone)

    def _encode_frozen(self, model: torch.nn.Module, prompts: PromptBatch) -> VisionFeatures:
        """Image features of a tower that never changes."""
        if self.vision_cache is not None:
            return self.vision_cache.encode(model, prompts)
        with torch.no_grad():
            return encode_images(model, prompts)

    def _log(self, metrics: dict[str, float], batch_size: int = 1) -> None:
        """Hand metrics to progress and checkpoints through Lightning, and to the log directly.

        Lightning writes a step's metrics after the hooks that save it, so that a run killed in
        between would lose them. Their step is the number of optimiser steps done.
        """
        self.log_dict(metrics, logger=False, batch_size=batch_size)
        for log in self.loggers:
            log.log_metrics(metrics, self.global_step)
