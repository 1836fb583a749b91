"""The part of `python train.py` that trains: find the run, open its parts, train, report."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from vqr1.cli.arguments import RUN_DIR_TAG, resume_command
from vqr1.cli.build import check_engine
from vqr1.cli.checks import check_mos_scales
from vqr1.cli.compose import plain_values
from vqr1.cli.description import describe, parameters, quieten, run_name, run_tags
from vqr1.cli.faults import machine_faults
from vqr1.cli.figure import figure_of
from vqr1.cli.folders import make_folders
from vqr1.cli.joined import in_processes, shared_run
from vqr1.cli.model_card import write_model_card
from vqr1.cli.report import print_report, summary_values
from vqr1.cli.resume import Run
from vqr1.cli.rewards import build_rewards
from vqr1.cli.training import Training, policy_of
from vqr1.cli.training_images import record_training_images, trained_test_images
from vqr1.config import TrainConfig
from vqr1.config.model_defaults import lines_about
from vqr1.data.datamodule import RankingDataModule
from vqr1.data.image_record import EXPORTS, copy_record
from vqr1.data.prompts import PromptBuilder
from vqr1.distributed.collectives import broadcast_from_rank0, get_rank, raise_on_all_ranks
from vqr1.distributed.environment import RankInfo
from vqr1.distributed.rendezvous import report_once
from vqr1.distributed.stop_requests import StopRequests
from vqr1.errors import Interrupted, PrunedError, RunFaultError
from vqr1.policy.loading import load_processor
from vqr1.policy.training_prompt import trained_vision_id, vision_id_note, vision_id_of
from vqr1.process_memory import only_new_objects_collected
from vqr1.sweeps.folder import JOB_FILE
from vqr1.tracking import NoRunLog, RunLog, open_run_log


def run_training(config: TrainConfig, composed: DictConfig, info: RankInfo) -> float:
    """Run one training, or go on with one (`config.resume`), in this process.

    Args:
        config: typed configuration.
        composed: the same as Hydra composed it, for the log.
        info: this process among those of the run.

    Returns:
        As `vqr1.cli.train.train`.

    Raises:
        UserError: a mistake, or a fault that stopped the run.
        Interrupted: a signal stopped the run, which is saved.
    """
    rewards = build_rewards(config.reward)
    config = in_processes(config, composed, info)
    # With `auto` the run may go on in another folder; an empty one would be left behind.
    own_folder = None if config.resume == "auto" or info.rank else config.run_dir
    raise_on_all_ranks(
        lambda: make_folders(run_dir=own_folder, loader__cache_dir=config.loader.cache_dir)
    )
    with (
        StopRequests() as stops,
        machine_faults(stops, Path(config.run_dir)),
        shared_run(config, plain_values(composed)) as run,
    ):
        if run.record.finished:
            return _finished(run)
        try:
            with machine_faults(stops, run.run_dir):
                return _train(config, composed, rewards, run, stops)
        except (Interrupted, RunFaultError) as error:
            _say_how_to_go_on(run, info, error)
            raise
        except PrunedError as error:
            if info.world_size == 1:
                raise
            report_once(info, str(error), 1, pruned=True)
            sys.exit(1)


def _finished(run: Run) -> float:
    if get_rank() == 0:
        print(f"{run.run_dir}: this run has finished; there is nothing to resume")
    return figure_of(run.run_dir)


def _say_how_to_go_on(run: Run, info: RankInfo, error: Interrupted | RunFaultError) -> None:
    if get_rank():
        return
    if isinstance(error, Interrupted):
        if (run.run_dir / JOB_FILE).is_file():
            print(f"stopped by {error.signal_name}", file=sys.stderr)
            return  # the sweep says how it goes on
        print(f"stopped by {error.signal_name}; go on with:", file=sys.stderr)
    else:
        print("stopped; once the cause below is put right, go on with:", file=sys.stderr)
    print(f"  {resume_command(run.run_dir, info)}", file=sys.stderr)


def _train(
    config: TrainConfig, composed: DictConfig, rewards: Any, run: Run, stops: StopRequests
) -> float:
    started = time.monotonic()
    quieten(config)
    if config.hardware.threads is not None:
        torch.set_num_threads(config.hardware.threads)
    L.seed_everything(config.seed, verbose=False)
    console = Console(soft_wrap=True, quiet=get_rank() > 0)
    with run.starting():
        raise_on_all_ranks(lambda: check_engine(config))
        data = raise_on_all_ranks(lambda: _open_data(config, rewards.ranks))
        raise_on_all_ranks(data.check_same_in_all_processes)
        raise_on_all_ranks(lambda: check_mos_scales(config, rewards, data.sets.values()))
        run = broadcast_from_rank0(partial(run.with_data, data.digests(), config.resume_force))
        policy = raise_on_all_ranks(lambda: policy_of(config))
        steps = _total_steps(config, data)
        defaults = lines_about(composed)
        console.print(describe(config, policy, data, steps, run, defaults), markup=False)
        note = vision_id_note(config.prompt, trained_vision_id(config.model))
        if note is not None:
            console.print(note, markup=False)
        broadcast_from_rank0(partial(record_training_images, config, data, run))
        opened = raise_on_all_ranks(lambda: _open_log(config, run))
    with opened as run_log:
        run_log.config(OmegaConf.to_yaml(composed, resolve=True), parameters(composed))
        if run.changes:
            run_log.tags({"vqr1.forced_changes": "; ".join(run.changes)})
        with closing(data), only_new_objects_collected():
            result = Training(config, policy, data, rewards, run_log, steps, run, stops).run()
        if result is None:
            return float("nan")
        seconds = time.monotonic() - started
        if result.after is not None:
            seen = trained_test_images(data, run.run_dir)
            result = replace(result, trained_on=seen)
        for name in EXPORTS:
            copy_record(run.run_dir, run.run_dir / name)
        run_log.summary(summary_values(result, seconds, run_log))
        write_model_card(result.checkpoint, run_log.run_dir)
    run.finish()
    print_report(console, result, seconds, run_log)
    return result.headline


def _open_log(config: TrainConfig, run: Run) -> RunLog:
    if get_rank():
        return NoRunLog(run.run_dir)
    tags = {**run_tags(config), RUN_DIR_TAG: str(run.run_dir.resolve())}
    return open_run_log(config.logger, run.run_dir, run_name(config), tags, resume=run.resumed)


def _open_data(config: TrainConfig, compares: bool) -> RankingDataModule:
    """The data sets with their labels read and images found, before any weights are loaded.

    Args:
        config: of the training.
        compares: the rewards compare images with each other.
    """
    prompts = PromptBuilder(
        load_processor(config.model),
        config.prompt.text,
        config.model.min_pixels,
        config.model.max_pixels,
        vision_id=vision_id_of(config.prompt, config.model),
    )
    data = RankingDataModule(
        config.dataset,
        config.loader,
        prompts,
        seed=config.seed,
        val_max_images=config.validation.max_images,
        val_batch_size=config.validation.images_per_batch,
    )
    data.setup("fit")
    # Making the loaders is cheap and finds what is missing: a part without images, a wrong weight.
    data.train_dataloader()
    if compares:
        data.check_comparable(within_process=config.grpo.pool == "rank")
    data.val_dataloader()
    if config.validation.test:
        data.eval_dataloader("test")
    return data


def _total_steps(config: TrainConfig, data: RankingDataModule) -> int:
    if config.max_steps is not None:
        return config.max_steps
    assert config.max_epochs is not None
    return config.max_epochs * len(data.train_dataloader()) * config.grpo.inner_iterations
