"""Learning-rate schedules as a pure function of the step."""

from __future__ import annotations

import math

from vqr1.config import OptimizerConfig


def learning_rate_factor(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """Learning rate of a step relative to its peak.

    Args:
        step: optimiser steps taken so far, from 0.
        total_steps: optimiser steps in all.
        config: schedule, warm-up steps and final fraction.

    Returns:
        Rises linearly from 1 / warmup_steps to 1 over the warm-up, then follows the schedule down
        to `final_fraction` at `total_steps`.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    span = max(total_steps - config.warmup_steps, 1)
    progress = min((step - config.warmup_steps) / span, 1.0)
    if config.schedule == "cosine":
        left = (1.0 + math.cos(math.pi * progress)) / 2.0
    else:
        left = 1.0 - progress
    return config.final_fraction + (1.0 - config.final_fraction) * left
