"""Reports a training that goes wrong, keeps what made an update non-finite, stops if asked to.

Not here: the rules (`vqr1.training.watchdogs`), and skipping an update (`StageModule`).
"""

from __future__ import annotations

import logging
from typing import Any

import lightning as L

from vqr1.config import WatchdogsConfig
from vqr1.distributed.collectives import get_rank
from vqr1.distributed.stop_requests import StopRequests
from vqr1.records import ScoredRollout
from vqr1.tracking import RunLog
from vqr1.training.checkpoint_files import (
    CheckpointNotWrittenError,
    step_name,
    write_checkpoint,
)
from vqr1.training.stages.module import StageModule
from vqr1.training.step import RankingStep, StepRecord
from vqr1.training.task import RANKING
from vqr1.training.watchdogs import RULES, LengthGrowth, Watchdog
from vqr1.training.zero_variance import FirstSteps

logger = logging.getLogger(__name__)

FOLDER = "offending"
"""Folder in the run directory for batches whose update was not finite."""


class Watchdogs(L.Callback):
    """All watchdogs of a run; what they have seen survives a resume.

    Args:
        config: limits, patience, actions.
        run_log: receives a tag for each warning, so that MLflow's page shows it.
        stops: is asked to end the run where a watchdog's action asks for it.
    """

    def __init__(self, config: WatchdogsConfig, run_log: RunLog, stops: StopRequests) -> None:
        self.config = config
        self.run_log = run_log
        self.stops = stops
        self.dogs = [
            Watchdog(name, getattr(config, name))
            for name in RULES
            if getattr(config, name).action != "off"
        ]
        self.growth = LengthGrowth()
        self.first_steps: dict[str, FirstSteps] = {RANKING: FirstSteps()}
        self.skipped = 0

    def state_dict(self) -> dict[str, Any]:
        """How long each rule has held, and the count of skipped updates."""
        return {
            "held": {dog.name: dog.held for dog in self.dogs},
            "growth": self.growth.state_dict(),
            "first_steps": self.first_steps[RANKING].state_dict(),
            "tasks": {name: first.state_dict() for name, first in self.first_steps.items() if name},
            "skipped": self.skipped,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a saved state."""
        for dog in self.dogs:
            dog.held = state_dict["held"].get(dog.name, 0)
        self.growth.load_state_dict(state_dict["growth"])
        if "first_steps" in state_dict:
            self.first_steps[RANKING].load_state_dict(state_dict["first_steps"])
        else:
            # A run of an earlier version, whose first steps are not known.
            self.first_steps[RANKING].done = True
        for name, saved in state_dict.get("tasks", {}).items():
            self._first_steps_of(name).load_state_dict(saved)
        self.skipped = state_dict["skipped"]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *unused: Any
    ) -> None:
        """Look at the step that was just taken."""
        assert isinstance(pl_module, StageModule)
        step = pl_module.last_step
        assert step is not None
        metrics = dict(step.metrics)
        if "response_length" in metrics:
            metrics["length_growth"] = self.growth.observe(metrics["response_length"])
        for dog in self.dogs:
            message = dog.observe(metrics)
            if message is not None:
                self._report_to_user(
                    dog.name, trainer.global_step, message, dog.config.action == "stop"
                )
        if isinstance(step, RankingStep):
            first = self._first_steps_of(step.batch.task)
            self._report_first_steps(trainer.global_step, first, first.observe(step.metrics))
        if not step.finite:
            self._count_skipped(trainer.global_step, step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report on a run of fewer steps than are waited for."""
        if trainer.global_step >= trainer.max_steps > 0:
            for first in self.first_steps.values():
                self._report_first_steps(trainer.global_step, first, first.finish())

    def _first_steps_of(self, task: str) -> FirstSteps:
        return self.first_steps.setdefault(task, FirstSteps(task=task))

    def _report_first_steps(self, step: int, first: FirstSteps, message: str | None) -> None:
        if message is not None:
            name = f"zero_variance.{first.task}" if first.task else "zero_variance"
            self._report_to_user(name, step, message, stop=False)

    def _count_skipped(self, step: int, record: StepRecord) -> None:
        self.skipped += 1
        limit = self.config.non_finite_limit
        kept = self._keep(step, record)
        cause = f" ({record.cause} hold NaN or infinity)" if record.cause else ""
        message = (
            f"loss or gradient is not finite{cause}; the update is excluded ({self.skipped} of at "
            f"most {limit}). {kept}; lower optimizer.lr, or use hardware.precision=32-true"
        )
        self._report_to_user("non_finite", step, message, self.skipped >= limit)

    def _keep(self, step: int, record: StepRecord) -> str:
        folder = FOLDER if get_rank() == 0 else f"{FOLDER}/rank_{get_rank()}"
        path = self.run_log.run_dir / folder / step_name("step", step)
        try:
            write_checkpoint(offending_content(record), path)
        except CheckpointNotWrittenError as error:
            return f"Its batch could not be kept ({error})"
        return f"Its batch is in {path}"

    def _report_to_user(self, name: str, step: int, message: str, stop: bool) -> None:
        line = f"step {step}: {message}"
        logger.warning("watchdog %s", line)
        self.run_log.tags({f"vqr1.watchdog.{name}": line})
        if stop:
            self.stops.fault(f"watchdog {line}")


def offending_content(record: StepRecord) -> dict[str, Any]:
    """What there is to inspect, in plain containers: images, tokens, texts, scores, rewards."""
    batch = record.batch
    content = {
        "dataset": batch.dataset,
        "images": [list(images) for images in batch.images],
        "mos": batch.mos,
        "pixels": [list(images) for images in batch.prompts.images],
        "input_ids": list(batch.prompts.input_ids),
    }
    return content | _responses(record.scored) if isinstance(record, RankingStep) else content


def _responses(scored: ScoredRollout) -> dict[str, Any]:
    return {
        "tokens": scored.rollout.tokens,
        "mask": scored.rollout.mask,
        "texts": scored.rollout.texts,
        "scores": scored.scores,
        "valid": scored.valid,
        "rewards": scored.rewards,
        "terms": dict(scored.terms),
        "advantages": scored.advantages,
    }
