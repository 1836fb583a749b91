"""The ranking step's settings from the configuration (`grpo.py` takes them)."""

from __future__ import annotations

from dataclasses import replace

from vqr1.config import TrainConfig
from vqr1.device import HALF
from vqr1.training.advantages import build_advantage
from vqr1.training.losses import build_loss
from vqr1.training.stages.base import StageParts
from vqr1.training.step import StepSettings


def half_reference(config: TrainConfig) -> bool:
    """Whether the reference's linear layers can have the type that its passes compute in."""
    # One that moves a little at a time would lose the moves in its rounding.
    return config.hardware.precision == HALF and config.grpo.reference_sync_every is None


def configured(config: TrainConfig, total_steps: int) -> StepSettings:
    """The step's settings as far as no data decide them."""
    return StepSettings(
        grpo=config.grpo,
        loss=build_loss(config.loss),
        advantage=build_advantage(config.advantage),
        sampling=config.rollout.sampling,
        optimizer=config.optimizer,
        micro_batch_tokens=config.hardware.micro_batch_tokens,
        total_steps=total_steps,
        seed=config.seed,
        importance_cap=config.rollout.importance_cap,
        reference=config.hardware.reference,
        half_reference=half_reference(config),
        kl_until=config.loss.kl_until,
    )


def step_settings(parts: StageParts) -> StepSettings:
    """The step's settings, with what the data decide and the term of degraded copies."""
    config, data = parts.config, parts.data
    pairs = {name: found.stated for name, found in data.training_pairs.items()}
    # Scores fitted to pairs are on [1, 5].
    published = {
        name for name, labelled in data.sets.items() if labelled.config.mos_scale == "published"
    } - pairs.keys()
    return replace(
        configured(config, parts.total_steps),
        published_mos=frozenset(published),
        pairs=pairs,
        perception=config.loss.perception if config.loss.perception.weight else None,
    )
