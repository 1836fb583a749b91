"""A policy with what trains, evaluates and exports it, built from the configuration.

Not here: in which order a run does so (`run.py`), the step (`stages/`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import Logger
from rich.console import Console

from vqr1.config import TrainConfig
from vqr1.data.datamodule import RankingDataModule
from vqr1.device import passes_in
from vqr1.distributed.collectives import broadcast_from_rank0, get_rank, raise_on_all_ranks
from vqr1.distributed.sharding import Replicated
from vqr1.distributed.stop_requests import StopRequests
from vqr1.errors import NonFiniteError
from vqr1.evaluation.metrics import metrics_of
from vqr1.evaluation.predictions import Predictions, with_pairs
from vqr1.evaluation.preferences import stated_pairs
from vqr1.evaluation.question_metrics import Graded
from vqr1.iqa.answers import AnswerForm, form_after
from vqr1.policy.finite import non_finite_weights
from vqr1.policy.loading import Policy
from vqr1.rewards import WeightedRewards
from vqr1.tracking import RunLog
from vqr1.training.asked import digest, what_decides
from vqr1.training.build import (
    build_engine,
    build_trainer,
    build_vision_cache,
    load_trained_policy,
    validation_interval,
)
from vqr1.training.callbacks import (
    EmaWeights,
    HungStep,
    RunCheckpoints,
    SampleAnswers,
    ScatterPlot,
    Watchdogs,
    progress_callback,
)
from vqr1.training.checkpoint_files import load_checkpoint, step_of
from vqr1.training.evaluation import evaluate_test
from vqr1.training.prediction_cache import AVERAGE, POLICY, read_predictions, write_predictions
from vqr1.training.questions import (
    ask_policy,
    log_questions,
    question_sets,
    write_task_questions,
)
from vqr1.training.stages import Stage, StageParts
from vqr1.training.validation import ValidationModes, Validator, level_mode, validation_modes


class PolicyTrainer:
    """A policy with what trains, evaluates and exports it.

    Args:
        config: typed configuration.
        stage: what is done with a batch.
        policy: as loaded; after training its weights are those of the last step.
        data: the opened data sets.
        rewards: as configured.
        run_log: the run's log; its folder takes checkpoints and exports.
        steps: optimiser steps in all.
        stops: asked for a stop after every batch.
        sweep_callbacks: as `vqr1.training.command.RunCommand` has them.
    """

    def __init__(
        self,
        config: TrainConfig,
        stage: Stage,
        policy: Policy,
        data: RankingDataModule,
        rewards: WeightedRewards,
        run_log: RunLog,
        steps: int,
        stops: StopRequests,
        sweep_callbacks: Callable[[Path, str], list[L.Callback]],
    ) -> None:
        self.config = config
        self.policy = policy
        self.data = data
        self.run_log = run_log
        self.stops = stops
        self.folder = run_log.run_dir / "checkpoints"
        vision_cache = build_vision_cache(config.hardware)
        self.engine = raise_on_all_ranks(
            lambda: build_engine(config, policy, run_log.run_dir, vision_cache)
        )
        # What the template writes of a response counts as part of it.
        answer = form_after(config.answer.form, data.prompt_text)
        self.modes = _modes(config, answer)
        self.metrics = metrics_of(config.metrics, config.target)
        self.pairs = stated_pairs(data.sets) if config.target == "pairs" else {}
        validator = Validator(self.engine, self.modes, self.metrics, self.pairs)
        self.module = stage.build(
            StageParts(
                config, policy, data, rewards, self.engine, validator, answer, steps,
                vision_cache, run_log.run_dir, stops,
            )
        )  # fmt: skip
        # What is trained may be another model than the one that the run begins with.
        self.policy = self.module.policy
        self.chooses_best = stage.chooses_best
        interval = validation_interval(config, stage.updates_per_batch(config))
        self.checkpoints = RunCheckpoints(
            config.callbacks.checkpoint,
            self.folder,
            stops,
            interval,
            self.metrics,
            # The weights of the last step count: the monitored metric looks at MOS.
            chooses=config.target != "self_vote",
        )
        decay = config.optimizer.ema_decay
        self.average = None if decay is None else EmaWeights(decay)
        callbacks = _callbacks(config, run_log, stops) + stage.callbacks(config)
        if get_rank() == 0:
            callbacks += sweep_callbacks(run_log.run_dir, config.sweep.curve)
        # Checkpoints come last: they hold what the others have made of a step.
        callbacks += [] if self.average is None else [self.average]
        callbacks.append(self.checkpoints)
        loggers = [one for one in run_log.loggers if isinstance(one, Logger)]
        self.trainer = build_trainer(config, loggers, callbacks, steps, interval)
        # Lightning moves the policy to the CPU after every validate and fit.
        self.device = next(policy.model.parameters()).device

    @property
    def step(self) -> int:
        """Optimiser steps so far."""
        return int(self.trainer.global_step)

    @property
    def best_step(self) -> int | None:
        """Step that validation found best; None where no validation chose."""
        return self.checkpoints.best_step if self.chooses_best else None

    @property
    def best_metrics(self) -> dict[str, float]:
        """Defined validation metrics of that step, by logged name."""
        return dict(self.checkpoints.best_metrics) if self.chooses_best else {}

    def fit(self, checkpoint: Path | None) -> None:
        """Ask the policy as loaded, and train to the last step; its full weights are then here.

        Args:
            checkpoint: verified state to resume from; None validates and starts from the beginning.
        """
        self._asked_before = self._ask("before training", 0)
        if checkpoint is None:
            self.trainer.validate(self.module, self.data, verbose=False)
            self.trainer.fit(self.module, self.data)
        else:
            self.trainer.fit(self.module, self.data, ckpt_path=checkpoint, weights_only=True)
        self._unshard()

    def load_best(self) -> int | None:
        """Take the weights that validation found best; their step, None where it chose none."""
        self.checkpoints.forget_damaged_best()
        best = self.checkpoints.best_path
        if best is None or not self.chooses_best:
            return None
        self.module.load_weights(load_checkpoint(best, mapped=True)["state_dict"])
        return step_of(best)

    def _unshard(self) -> None:
        """Take a policy of full weights where training has left each rank a shard."""
        if isinstance(self.module.sharding, Replicated):
            return
        self.policy = load_trained_policy(self.config)
        self.module.unshard(self.policy)
        # One engine asks questions and evaluates: only a student's stage has two, and shards none.
        self.engine = self.engine.with_model(self.policy.model)
        self.module.engine = self.engine

    def evaluate_average(self, step: int) -> Predictions | None:
        """Evaluate and export the average of the weights after `step`; None without one."""
        if self.average is None:
            return None
        self.average.apply(self.module)
        predictions = self.evaluate("average of the weights", step, AVERAGE)
        self.export("export_average")
        return predictions

    def export(self, name: str) -> Path:
        """Write the policy into a folder of the run, from rank 0; returns the folder.

        Raises:
            NonFiniteError: its weights hold NaN or infinity, in all processes; nothing is written.
        """
        folder = self.run_log.run_dir.resolve() / name
        broken = non_finite_weights(self.policy.model)
        if broken:
            raise NonFiniteError(
                f"{name}: not written, {len(broken)} weights hold NaN or infinity, "
                f"{broken[0]} first"
            )
        if get_rank() == 0:
            self.module.export(folder, self.config)
        return folder

    def evaluate(self, when: str, step: int, kind: str = POLICY) -> Predictions | None:
        """Predictions of the test images, from the cache where an earlier process has made them.

        Those to another prompt, draw or answer form, or of other labels, are made again.

        Args:
            when: shown beside the progress bar.
            step: optimiser steps of the policy.
            kind: name of the cached file.

        Returns:
            None without a test, and on all but rank 0.
        """
        self.stops.check()
        validation = self.config.validation
        if not validation.test:
            return None
        engine, modes = (
            (self.module.engine, self.module.validator.modes) if step else (self.engine, self.modes)
        )
        asked = digest(what_decides(self.config, self.data, request=modes.primary))
        kept = read_predictions(self.folder, step, kind, asked) if get_rank() == 0 else None
        if broadcast_from_rank0(lambda: kept is not None):
            return None if kept is None else with_pairs(kept, self.pairs)
        self.policy.model.to(self.device)
        engine.synchronise()
        # Lightning's validations compute so.
        with passes_in(self.config.hardware.precision, self.device):
            predictions = evaluate_test(
                engine,
                self.data,
                modes.primary,
                validation.batch_size,
                when,
                self.stops,
            )
        if predictions is not None:
            write_predictions(self.folder, step, predictions, kind, asked)
        return None if predictions is None else with_pairs(predictions, self.pairs)

    def _ask(self, when: str, step: int) -> list[Graded]:
        """The policy's answers to questions (`questions.py`); empty without any."""
        sets = question_sets(self.config, self.data.tasks)
        if not sets:
            return []
        self.stops.check()
        self.policy.model.to(self.device)
        self.engine.synchronise()
        if get_rank() == 0:
            write_task_questions(sets, self.run_log.run_dir)
        with passes_in(self.config.hardware.precision, self.device):
            return ask_policy(self.config, self.policy, self.engine, sets, self.folder, step, when)

    def ask_again(self, step: int) -> None:
        """Ask the policy after `step` the questions that it was asked before training, and log."""
        after = self._ask("after training", step)
        draws = self.config.validation.bootstrap_draws
        log_questions(self.run_log, self._asked_before, after, self.step, draws)


def _modes(config: TrainConfig, answer: AnswerForm) -> ValidationModes:
    sampling = config.rollout.sampling.ending_with(answer.closing)
    if config.validation.mode == "levels":
        return level_mode(config.prompt, answer, sampling)
    return validation_modes(
        sampling,
        config.validation.samples,
        config.seed,
        config.prompt,
        answer,
    )


def _callbacks(config: TrainConfig, run_log: RunLog, stops: StopRequests) -> list[L.Callback]:
    callbacks: list[L.Callback] = [
        SampleAnswers(run_log, config.logger.sample_answers),
        ScatterPlot(run_log),
    ]
    if config.callbacks.hung_step is not None:
        callbacks.append(HungStep(config.callbacks.hung_step, run_log.run_dir))
    if config.callbacks.progress and get_rank() == 0:
        callbacks.append(progress_callback(Console()))
    if config.callbacks.watchdogs is not None:
        callbacks.append(Watchdogs(config.callbacks.watchdogs, run_log, stops))
    return callbacks
