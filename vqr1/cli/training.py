"""The training itself, once its parts are open: judge, fit, judge again, export."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.console import Console

from vqr1.cli.build import (
    build_engine,
    build_trainer,
    build_vision_cache,
    validation_interval,
)
from vqr1.cli.judgements import JUDGED, JUDGED_AVERAGE, keep_predictions, kept_predictions
from vqr1.cli.report import ExportedStep, TestResult, judge
from vqr1.cli.resume import Run
from vqr1.config import TrainConfig
from vqr1.data.datamodule import RankingDataModule
from vqr1.distributed.collectives import broadcast_from_rank0, get_rank, raise_on_all_ranks
from vqr1.distributed.sharding import Replicated
from vqr1.distributed.stop_requests import StopRequests
from vqr1.errors import NonFiniteError
from vqr1.evaluation.predictions import Predictions
from vqr1.policy.export import export_checkpoint
from vqr1.policy.finite import non_finite_weights
from vqr1.policy.loading import Policy, load_policy
from vqr1.policy.training_prompt import vision_id_of, write_training_prompt
from vqr1.sweeps.child import trial_callbacks
from vqr1.tracking import RunLog
from vqr1.training.advantages import build_advantage
from vqr1.training.callbacks import (
    EmaWeights,
    ReferenceSync,
    RunCheckpoints,
    SampleAnswers,
    ScatterPlot,
    Watchdogs,
    progress_callback,
)
from vqr1.training.callbacks.answers import answer_table
from vqr1.training.callbacks.scatter import scatter_figure
from vqr1.training.checkpoint_files import read_checkpoint, step_of
from vqr1.training.grpo import GrpoModule
from vqr1.training.losses import build_loss
from vqr1.training.step import StepSettings
from vqr1.training.validation import ValidationModes, Validator, validation_modes

logger = logging.getLogger(__name__)


class Training:
    """Judges, fits, judges again and exports; each part once, however often it is resumed."""

    def __init__(
        self,
        config: TrainConfig,
        policy: Policy,
        data: RankingDataModule,
        rewards: Any,
        run_log: RunLog,
        steps: int,
        run: Run,
        stops: StopRequests,
    ) -> None:
        self.config = config
        self.policy = policy
        self.data = data
        self.run_log = run_log
        self.resumed_from = run.checkpoint
        self.stops = stops
        self.folder = run_log.run_dir / "checkpoints"
        vision_cache = build_vision_cache(config.hardware)
        self.engine = raise_on_all_ranks(
            lambda: build_engine(config, policy, run_log.run_dir, vision_cache)
        )
        self.modes = _modes(config)
        published = [s.name for s in data.sets.values() if s.config.mos_scale == "published"]
        settings = _step_settings(config, steps, published)
        validator = Validator(self.engine, self.modes)
        self.module = GrpoModule(policy, self.engine, rewards, validator, settings, vision_cache)
        self.checkpoints = RunCheckpoints(
            config.callbacks.checkpoint, self.folder, stops, validation_interval(config)
        )
        decay = config.optimizer.ema_decay
        self.average = None if decay is None else EmaWeights(decay)
        callbacks = _callbacks(config, run_log, stops)
        # Checkpoints come last: they hold what the others have made of a step.
        callbacks += [] if self.average is None else [self.average]
        callbacks.append(self.checkpoints)
        self.trainer = build_trainer(config, run_log.logger, callbacks, steps)
        # Lightning moves the policy to the CPU after every validate and fit.
        self.device = next(policy.model.parameters()).device

    def run(self) -> TestResult | None:
        """The whole run, or what is left of it; None in processes that only help."""
        before = self._judged("before training", 0)
        if self.resumed_from is None:
            self.trainer.validate(self.module, self.data, verbose=False)
            self.trainer.fit(self.module, self.data)
        else:
            self.trainer.fit(self.module, self.data, ckpt_path=self.resumed_from, weights_only=True)
        self._put_together()
        last_step = self.trainer.global_step
        after = last = self._judged("after training, last step", last_step)
        self.checkpoints.forget_damaged_best()
        best = self.checkpoints.best_path
        if best is not None:
            self.module.load_state_dict(read_checkpoint(best)["state_dict"])
            if step_of(best) != last_step:
                after = self._judged(f"after training, best step {step_of(best)}", step_of(best))
        run_dir = self.run_log.run_dir.resolve()
        self._export(run_dir / "export")
        average = self._judged_average(last_step)
        skipped = self.data.skipped_images()
        if get_rank():
            return None
        result = TestResult.build(
            before,
            after,
            last,
            average,
            ExportedStep(
                self.checkpoints.best_step, last_step, dict(self.checkpoints.best_metrics)
            ),
            run_dir / "export",
            self.config.validation.bootstrap_draws,
        )
        _log_result(self.run_log, result, last_step)
        self._log_skipped(skipped, last_step)
        return result

    def _put_together(self) -> None:
        """Take a policy of whole weights where training has left each process a piece."""
        if isinstance(self.module.sharding, Replicated):
            return
        policy = policy_of(self.config)
        with torch.no_grad():
            places = policy.model.state_dict()
            for name, whole in self.module.sharding.full_weights(self.policy.model):
                places[name].copy_(whole)
        self.module.sharding.close()
        self.module.sharding = Replicated()
        self.policy = self.module.policy = policy
        self.module.model = policy.model
        self.engine = self.engine.with_model(policy.model)

    def _judged_average(self, step: int) -> Predictions | None:
        """Judge and export the average of the weights in the policy's place; None without one."""
        if self.average is None:
            return None
        self.average.apply(self.module)
        predictions = self._judged("average of the weights", step, JUDGED_AVERAGE)
        self._export(self.run_log.run_dir.resolve() / "export_average")
        return predictions

    def _export(self, folder: Path) -> None:
        """Write the policy, from rank 0.

        Raises:
            NonFiniteError: its weights hold NaN or infinity, in all processes; nothing is written.
        """
        broken = non_finite_weights(self.policy.model)
        if broken:
            raise NonFiniteError(
                f"{folder.name}: not written, {len(broken)} weights hold NaN or infinity, "
                f"{broken[0]} first"
            )
        if get_rank() == 0:
            export_checkpoint(self.policy, folder)
            write_training_prompt(folder, vision_id_of(self.config.prompt, self.config.model))

    def _judged(self, when: str, step: int, kind: str = JUDGED) -> Predictions | None:
        self.stops.check()
        validation = self.config.validation
        if not validation.test:
            return None
        kept = kept_predictions(self.folder, step, kind) if get_rank() == 0 else None
        if broadcast_from_rank0(lambda: kept is not None):
            return kept
        self.policy.model.to(self.device)
        self.engine.synchronise()
        predictions = judge(
            self.engine,
            self.data,
            self.modes.primary,
            validation.images_per_batch,
            when,
            self.stops,
        )
        if predictions is not None:
            keep_predictions(self.folder, step, predictions, kind)
        return predictions

    def _log_skipped(self, counts: dict[str, int], step: int) -> None:
        skipped = {name: count for name, count in counts.items() if count}
        self.run_log.metrics(
            {f"data/skipped/{name}": float(count) for name, count in skipped.items()}, step
        )
        for name, count in skipped.items():
            logger.warning("%s: %d images were left out (dataset.on_bad_image=skip)", name, count)


def policy_of(config: TrainConfig) -> Policy:
    """Load the policy as `hardware` says, onto this process's own device."""
    hardware = config.hardware
    return load_policy(
        config.model,
        attention=hardware.attention,
        gradient_checkpointing=hardware.gradient_checkpointing,
        # The current device is the process's own.
        device="cuda" if hardware.accelerator == "gpu" else "cpu",
    )


def _modes(config: TrainConfig) -> ValidationModes:
    return validation_modes(
        config.rollout.sampling,
        config.validation.samples,
        config.seed,
        config.prompt.answer_format,
        config.prompt.score_range,
    )


def _step_settings(config: TrainConfig, steps: int, published_mos: Sequence[str]) -> StepSettings:
    return StepSettings(
        grpo=config.grpo,
        loss=build_loss(config.loss),
        advantage=build_advantage(config.advantage),
        sampling=config.rollout.sampling,
        optimizer=config.optimizer,
        answer_format=config.prompt.answer_format,
        score_range=config.prompt.score_range,
        micro_batch_tokens=config.hardware.micro_batch_tokens,
        total_steps=steps,
        seed=config.seed,
        importance_cap=config.rollout.importance_cap,
        reference=config.hardware.reference,
        published_mos=frozenset(published_mos),
    )


def _log_result(run_log: RunLog, result: TestResult, step: int) -> None:
    run_log.metrics(result.metrics(), step)
    run_log.tags({"vqr1.checkpoint": str(result.checkpoint)})
    for name, predictions in (("before", result.before), ("after", result.after)):
        if predictions is not None:
            run_log.figure(
                f"scatter/test_{name}", scatter_figure(predictions, f"test, {name} training")
            )
            run_log.table(f"answers/test_{name}", answer_table(predictions, 20))


def _callbacks(config: TrainConfig, run_log: RunLog, stops: StopRequests) -> list[L.Callback]:
    callbacks: list[L.Callback] = [
        SampleAnswers(run_log, config.logger.sample_answers),
        ScatterPlot(run_log),
    ]
    if config.callbacks.progress and get_rank() == 0:
        callbacks.append(progress_callback(Console()))
    if config.callbacks.watchdogs is not None:
        callbacks.append(Watchdogs(config.callbacks.watchdogs, run_log, stops))
    if config.grpo.reference_sync_every is not None:
        callbacks.append(
            ReferenceSync(config.grpo.reference_sync_every, config.grpo.reference_mixup)
        )
    if get_rank() == 0:
        callbacks += trial_callbacks(run_log.run_dir, config.sweep.curve)
    return callbacks
