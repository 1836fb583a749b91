"""Opening what a training works on: its data sets, its log, and the number of its steps."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from vqr1.config import TrainConfig
from vqr1.data.datamodule import RankingDataModule
from vqr1.distributed.collectives import get_rank
from vqr1.policy.prompts import load_prompts
from vqr1.rewards import WeightedRewards
from vqr1.tracking import NoRunLog, RunLog, open_run_log
from vqr1.training.command import RunCommand
from vqr1.training.description import parameters, run_name, run_tags
from vqr1.training.questions import question_sets
from vqr1.training.resume import Run
from vqr1.training.run_lookup import RUN_DIR_TAG
from vqr1.training.stages import Stage
from vqr1.training.task import task_sources


def open_data(config: TrainConfig, stage: Stage, rewards: WeightedRewards) -> RankingDataModule:
    """The data sets with their labels read and images found, before any weights are loaded.

    Args:
        config: of the training.
        stage: what is done with a batch.
        rewards: as configured.
    """
    prompts = load_prompts(config.model, config.prompt)
    data = RankingDataModule(
        config.dataset,
        config.loader,
        prompts,
        seed=config.seed,
        val_max_images=config.validation.max_images,
        val_batch_size=config.validation.batch_size,
        target=config.target,
        pool=config.grpo.pool,
        pairs_per_image=config.votes.pairs_per_image,
        tasks=task_sources(stage.tasks(config), config),
    )
    data.setup("fit")
    # Making the loaders is cheap and finds what is missing: a part without images, a wrong weight.
    data.train_dataloader()
    if stage.compares(rewards):
        data.check_comparable(within_process=stage.compares_in_process(config))
    data.val_dataloader()
    if config.validation.test:
        data.eval_dataloader("test")
    question_sets(config, data.tasks)
    return data


def open_log(config: TrainConfig, run: Run, command: RunCommand) -> RunLog:
    """The run's log on rank 0; on the others one that logs nothing."""
    if get_rank():
        return NoRunLog(run.run_dir)
    tags = {**run_tags(config, command), RUN_DIR_TAG: str(run.run_dir.resolve())}
    return open_run_log(
        config.logger, run.run_dir, run_name(config, command), tags, resume=run.resumed, trains=True
    )


def log_configuration(run_log: RunLog, composed: DictConfig, run: Run, command: RunCommand) -> None:
    """Log what is trained, and which changed keys a resume has forced."""
    run_log.config(OmegaConf.to_yaml(composed, resolve=True), parameters(composed, command))
    if run.changes:
        run_log.tags({"vqr1.forced_changes": "; ".join(run.changes)})


def total_steps(config: TrainConfig, data: RankingDataModule, updates_per_batch: int) -> int:
    """Optimiser steps of a whole run."""
    if config.max_steps is not None:
        return config.max_steps
    assert config.max_epochs is not None
    return config.max_epochs * len(data.train_dataloader()) * updates_per_batch
