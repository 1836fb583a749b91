"""A whole training: open data, policy and log; evaluate, fit, evaluate again, export, report.

Each evaluation and each step is done once, however often the run is resumed.

Not here: which run a command means (`resume.py`), the ranks and their configuration (`startup.py`),
what is built from it (`build.py`, `opening.py`, `policy_trainer.py`), the step (`stages/`).
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from vqr1.config import TrainConfig
from vqr1.config.model_defaults import lines_about
from vqr1.config.plain import plain_values
from vqr1.data.datamodule import RankingDataModule
from vqr1.distributed.collectives import broadcast_from_rank0, get_rank, raise_on_all_ranks
from vqr1.distributed.environment import RankInfo
from vqr1.distributed.stop_requests import StopRequests
from vqr1.errors import Interrupted, RunFaultError
from vqr1.outputs import make_folders
from vqr1.process_memory import collection_paused, only_new_objects_collected
from vqr1.rewards import WeightedRewards
from vqr1.rewards.build import build_rewards
from vqr1.training.build import check_engine, load_trained_policy
from vqr1.training.command import RunCommand
from vqr1.training.description import describe
from vqr1.training.faults import machine_faults
from vqr1.training.opening import log_configuration, open_data, open_log, total_steps
from vqr1.training.policy_trainer import PolicyTrainer
from vqr1.training.report import log_result, print_report, write_results
from vqr1.training.result import ExportedStep, TestResult
from vqr1.training.resume import Run, finished, print_how_to_resume
from vqr1.training.self_vote import cast_votes
from vqr1.training.stages import Stage, build_stage
from vqr1.training.startup import connect, set_up_process, shared_run
from vqr1.training.trained_images import add_to_exports, record_training_images, trained_test_images


def run_training(
    config: TrainConfig, composed: DictConfig, info: RankInfo, command: RunCommand
) -> float:
    """Run one training, or resume one (`config.resume`), in this process.

    Args:
        config: typed configuration.
        composed: the same as Hydra composed it, for the log.
        info: this process among those of the run.
        command: how the run was started.

    Returns:
        As `vqr1.cli.train.train`.

    Raises:
        UserError: a mistake, or a fault that stopped the run.
        Interrupted: a signal stopped the run, which is saved.
        PrunedError: a search stopped the run.
    """
    stage, rewards = build_stage(config.stage), build_rewards(config.reward)
    config = connect(config, composed, info)
    # With `auto` the run may resume in another folder; an empty one would be left over.
    own_folder = None if config.resume == "auto" or info.rank else config.run_dir
    raise_on_all_ranks(
        lambda: make_folders(run_dir=own_folder, loader__cache_dir=config.loader.cache_dir)
    )
    with (
        StopRequests() as stops,
        machine_faults(stops, Path(config.run_dir)),
        shared_run(config, plain_values(composed), command.overrides) as run,
    ):
        if run.record.finished:
            return finished(run)
        try:
            with machine_faults(stops, run.run_dir):
                return _open_and_train(config, composed, stage, rewards, run, stops, command)
        except (Interrupted, RunFaultError) as error:
            print_how_to_resume(run, info, error, command.in_sweep(run.run_dir))
            raise


def _open_and_train(
    config: TrainConfig, composed: DictConfig, stage: Stage, rewards: WeightedRewards, run: Run,
    stops: StopRequests, command: RunCommand,
) -> float:  # fmt: skip
    started = time.monotonic()
    set_up_process(config)
    console = Console(soft_wrap=True, quiet=get_rank() > 0, markup=False, emoji=False)
    with run.starting(), collection_paused():
        raise_on_all_ranks(lambda: check_engine(config))
        data = raise_on_all_ranks(lambda: open_data(config, stage, rewards))
        raise_on_all_ranks(data.check_same_in_all_processes)
        raise_on_all_ranks(lambda: stage.check_data(config, rewards, data))
        run = broadcast_from_rank0(partial(run.with_data, data.digests(), config.resume_force))
        policy = raise_on_all_ranks(lambda: load_trained_policy(config))
        steps = total_steps(config, data, stage.updates_per_batch(config))
        lines = lines_about(composed)
        console.print(describe(config, stage, policy, data, steps, run, lines))
        broadcast_from_rank0(partial(record_training_images, config, data, run))
        opened = raise_on_all_ranks(lambda: open_log(config, run, command))
    with opened as run_log:
        log_configuration(run_log, composed, run, command)
        with closing(data), only_new_objects_collected():
            cast_votes(config, data, policy, run_log, stops)
            trainer = PolicyTrainer(config, stage, policy, data, rewards, run_log, steps, stops,
                                    command.sweep_callbacks)  # fmt: skip
            result = _train(trainer, run.checkpoint, data)
        if result is None:
            return float("nan")
        seconds = time.monotonic() - started
        if result.after is not None:
            result = replace(result, trained_on=trained_test_images(data, run.run_dir))
        add_to_exports(run.run_dir)
        write_results(config.prompt.name, result, seconds, run_log)
        stage.write_card(result.checkpoint, run_log.run_dir)
    run.finish()
    print_report(console, result, seconds, run_log)
    return result.headline


def _train(
    trainer: PolicyTrainer, checkpoint: Path | None, data: RankingDataModule
) -> TestResult | None:
    """The result on rank 0, None on the others."""
    before = trainer.evaluate("before training", 0)
    trainer.fit(checkpoint)
    last = trainer.step
    after = after_last = trainer.evaluate("after training, last step", last)
    best = trainer.load_best()
    if best is not None and best != last:
        after = trainer.evaluate(f"after training, best step {best}", best)
    trainer.ask_again(last if best is None else best)
    exported = trainer.export("export")
    average = trainer.evaluate_average(last)
    skipped = data.skipped_images()
    if get_rank():
        return None
    chosen = ExportedStep(trainer.best_step, last, trainer.best_metrics)
    draws = trainer.config.validation.bootstrap_draws
    result = TestResult.build(
        before, after, after_last, average, chosen, exported, draws, trainer.metrics
    )
    log_result(trainer.run_log, result, skipped, last, data.load_image)
    return result
