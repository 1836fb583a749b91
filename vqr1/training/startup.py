"""The start of a training's rank: its configuration, its connection to the others, their run.

Not here: starting the processes, the rendezvous (`vqr1.distributed`).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig, OmegaConf

from vqr1.config import TrainConfig
from vqr1.config.plain import plain_values
from vqr1.distributed.collectives import (
    broadcast_from_rank0,
    get_rank,
    get_world_size,
    raise_on_all_ranks,
)
from vqr1.distributed.environment import RankInfo
from vqr1.distributed.hardware import share_of_step
from vqr1.distributed.rendezvous import connect_ranks
from vqr1.errors import ConfigError
from vqr1.policy.training_prompt import vision_id_of
from vqr1.rewards.build import build_rewards
from vqr1.training.checkpoint_files import load_checkpoint, newest_intact
from vqr1.training.checks import check_training
from vqr1.training.description import quieten
from vqr1.training.optimizer_state import layout_problem
from vqr1.training.resume import Run, claimed_run
from vqr1.training.run_record import RECORD, changed_keys


def connect(config: TrainConfig, composed: DictConfig, info: RankInfo) -> TrainConfig:
    """Connect to the other ranks; returns the configuration with their number."""
    hardware = config.hardware
    problem: ConfigError | None = None
    asked = hardware.devices * hardware.nodes
    if info.launched and asked not in (1, info.world_size):
        problem = ConfigError(
            [
                f"hardware.devices={hardware.devices}, hardware.nodes={hardware.nodes}: a launcher "
                f"has started {info.world_size} processes; start {asked}, or leave these keys out"
            ]
        )
    if info.launched:
        hardware = replace(hardware, devices=info.local_size, nodes=info.nodes)
        OmegaConf.update(composed, "hardware.devices", hardware.devices)
        OmegaConf.update(composed, "hardware.nodes", hardware.nodes)
        config = replace(config, hardware=hardware)
    if config.loader.global_batch_size is not None:
        share = share_of_step(config.loader.global_batch_size, info.world_size)
        if share is not None:
            OmegaConf.update(composed, "loader.batch_size", share)
            config = replace(config, loader=replace(config.loader, batch_size=share))
    # Part of the run's record: what the checkpoint records decides where the key is null.
    vision_id = vision_id_of(config.prompt, config.model)
    OmegaConf.update(composed, "prompt.vision_id", vision_id, force_add=True)
    config = replace(config, prompt=replace(config.prompt, vision_id=vision_id))
    try:
        check_training(config, build_rewards(config.reward))
    except ConfigError as error:
        problem = problem or error
    connect_ranks(
        info, hardware, plain_values(composed), problem, partial(changed_keys, moved=True)
    )
    if get_rank():
        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")
    return config


def set_up_process(config: TrainConfig) -> None:
    """Threads, seed, and quiet libraries."""
    quieten(config)
    if config.hardware.threads is not None:
        torch.set_num_threads(config.hardware.threads)
    L.seed_everything(config.seed, verbose=False)


@contextmanager
def shared_run(
    config: TrainConfig, values: dict[str, Any], overrides: Sequence[str]
) -> Iterator[Run]:
    """The run that rank 0 has claimed."""
    with ExitStack() as held:
        run = broadcast_from_rank0(
            lambda: held.enter_context(claimed_run(config, values, overrides))
        )
        raise_on_all_ranks(partial(_check_seen, run.run_dir.resolve()))
        if run.resumed and not run.record.finished:
            run = replace(run, checkpoint=newest_intact(run.run_dir / "checkpoints", "step"))
            broadcast_from_rank0(partial(_check_optimizer_state, config, run))
        yield run


def _check_optimizer_state(config: TrainConfig, run: Run) -> None:
    """Whether the run's strategy takes the optimizer state that its checkpoint holds.

    Raises:
        ConfigError: it does not.
    """
    if run.checkpoint is None:
        return
    states = load_checkpoint(run.checkpoint, mapped=True).get("optimizer_states", [])
    problem = layout_problem(states, config.hardware, get_world_size(), run.run_dir)
    if problem is not None:
        raise ConfigError([problem])


def _check_seen(run_dir: Path) -> None:
    if not (run_dir / RECORD).is_file():
        raise ConfigError(
            [
                f"run_dir={run_dir}: process {get_rank()} does not see what rank 0 has "
                "written there; choose a folder on a disk that all nodes share"
            ]
        )
