"""From typed configuration to objects: policy, engine, vision cache, trainer.

Not here: rewards (`vqr1.rewards.build`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import Strategy

from vqr1.config import HardwareConfig, TrainConfig
from vqr1.distributed.collectives import broadcast_from_rank0, get_rank, get_world_size
from vqr1.policy.checkpoint_config import load_config
from vqr1.policy.loading import Policy, load_policy
from vqr1.policy.prompts import prompt_builder
from vqr1.policy.training_prompt import vision_id_of
from vqr1.policy.vision import VisionCache
from vqr1.rollout.engine import RolloutEngine
from vqr1.rollout.local import LocalEngine
from vqr1.rollout.vllm_client import VllmLink, at_start
from vqr1.rollout.vllm_colocated import VllmColocatedEngine, colocated_vllm
from vqr1.rollout.vllm_server import VllmServerEngine
from vqr1.rollout.vllm_start import check_computed
from vqr1.training.callbacks.checkpoints import AtomicCheckpointIO, FitLoop
from vqr1.training.strategy import (
    ConnectedEnvironment,
    ReplicatedStrategy,
    ShardedStrategy,
    ZeroStrategy,
)


def load_trained_policy(config: TrainConfig) -> Policy:
    """Load the policy as `hardware` states, onto this process's own device."""
    hardware = config.hardware
    return load_policy(
        config.model,
        attention=hardware.attention,
        gradient_checkpointing=hardware.gradient_checkpointing,
        # The current device is the process's own.
        device="cuda" if hardware.accelerator == "gpu" else "cpu",
    )


def build_engine(
    config: TrainConfig, policy: Policy, run_dir: Path, vision_cache: VisionCache | None = None
) -> RolloutEngine:
    """The rollout engine of a policy; what it writes goes to the run's folder.

    Raises:
        ModelError: no rollout server answers, or it cannot serve this training; vLLM does not start
            in this process.
    """
    if config.rollout.engine == "vllm_server":
        return _server_engine(config, policy, run_dir)
    if config.rollout.engine == "vllm_colocated":
        return _colocated_engine(config, policy)
    return LocalEngine(
        policy.model,
        policy.processor.tokenizer,
        config.rollout.micro_batch_tokens,
        cuda_graph=config.rollout.cuda_graph,
        vision_cache=vision_cache,
    )


def check_engine(config: TrainConfig) -> None:
    """Look for what samples, before anything is loaded.

    Raises:
        ModelError: no rollout server answers, or it cannot serve this training; vLLM is not
            installed, or has no such models.
    """
    engine = config.rollout.engine
    if engine != "local":
        family, found = load_config(config.model)
        check_computed(family, found, f"rollout.engine={engine}", "rollout=local")
    if engine == "vllm_colocated":
        colocated_vllm()
    if engine == "vllm_server":
        with at_start(config.rollout.server.url):
            _link(config, torch.device("cpu"), Path(config.run_dir)).look()


def _link(config: TrainConfig, device: torch.device, run_dir: Path) -> VllmLink:
    server = config.rollout.server
    return VllmLink(
        server,
        config.rollout.sampling,
        device,
        sends=get_rank() == 0,
        adapter_dir=Path(server.adapter_dir or run_dir / "adapter"),
    )


def _server_engine(config: TrainConfig, policy: Policy, run_dir: Path) -> RolloutEngine:
    builder = prompt_builder(policy.family, policy.processor, config.model, config.prompt)
    return VllmServerEngine(
        policy.model,
        policy.processor,
        replace(config.prompt, vision_id=vision_id_of(config.prompt, config.model)),
        config.rollout.server,
        _link(config, next(policy.model.parameters()).device, run_dir),
        agree=broadcast_from_rank0,
        alone=get_world_size() == 1,
        processing=policy.family.serving_arguments(builder.rule),
    )


def _colocated_engine(config: TrainConfig, policy: Policy) -> RolloutEngine:
    half = config.hardware.precision == "bf16-mixed"
    return VllmColocatedEngine(
        policy,
        config.prompt,
        config.rollout.colocated,
        config.model,
        config.rollout.sampling,
        dtype="bfloat16" if half else config.model.dtype,
        seed=config.seed,
        alone=get_world_size() == 1,
    )


def build_vision_cache(config: HardwareConfig) -> VisionCache | None:
    """The store of image features that do not change, None where none shall be kept."""
    if config.vision_cache_mib == 0 and config.vision_cache_dir is None:
        return None
    folder = None if config.vision_cache_dir is None else Path(config.vision_cache_dir)
    return VisionCache(config.vision_cache_mib * 2**20, folder)


def validation_interval(config: TrainConfig, updates_per_batch: int) -> int:
    """Batches between validations; each takes so many optimiser steps."""
    return max(config.validation.every_steps // updates_per_batch, 1)


def build_trainer(
    config: TrainConfig,
    loggers: Sequence[Logger],
    callbacks: list[L.Callback],
    max_steps: int,
    val_every: int,
) -> L.Trainer:
    """The Lightning trainer of a run of `max_steps` updates, validated every so many batches."""
    hardware: HardwareConfig = config.hardware
    strategy = _strategy(hardware, config.optimizer.max_grad_norm)
    trainer = L.Trainer(
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        num_nodes=hardware.nodes,
        strategy=strategy or "auto",
        precision=hardware.precision,
        max_steps=max_steps,
        max_epochs=-1,
        val_check_interval=val_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        logger=list(loggers),
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO(), *([ConnectedEnvironment()] if strategy else [])],
        enable_progress_bar=False,  # `callbacks.progress` has its own
        enable_model_summary=False,
        use_distributed_sampler=False,
        # FSDP2's first unshard in inference mode makes weights that autograd refuses later;
        # Lightning falls back to `no_grad` by itself only where the backend is called gloo.
        inference_mode=False,
        default_root_dir=Path(config.run_dir),
    )
    trainer.fit_loop = FitLoop(trainer)
    return trainer


def _strategy(hardware: HardwareConfig, max_grad_norm: float | None) -> Strategy | None:
    """How the processes divide their work; None in a run of one that divides nothing."""
    if hardware.strategy == "fsdp2":
        return ShardedStrategy(half_passes=hardware.precision == "bf16-mixed")
    if hardware.strategy in ("zero2", "zero3"):
        stage = int(hardware.strategy[-1])
        return ZeroStrategy(stage, hardware.offload, max_grad_norm)
    return ReplicatedStrategy() if get_world_size() > 1 else None
