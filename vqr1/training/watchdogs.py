"""Signs that a training has gone wrong, as pure rules over the metrics of its steps.

A rule holds or not at one step, or the step lacks what it looks at (a step of an auxiliary task);
a watchdog raises an alarm when it has held for some steps in a row, those apart. Each message
states what is seen and what to do.

| watchdog | holds when |
|---|---|
| zero_variance | the share of groups whose rewards do not differ is at least the limit |
| constant | the fidelity reward is within the limit of sqrt(1/2) = .7071 |
| format_rate | the share of format-compliant responses is below the limit |
| kl | the KL estimate per token is above the limit |
| length | responses are longer than the limit times those of the first steps |
| entropy | the mean negative log-probability of the sampled tokens, in nats, is below the limit |

A constant predictor gives every pair of images probability 1/2, and earns sqrt(1/2) with each pair
(arXiv 2505.14460, equation of the fidelity reward). Non-finite updates are no matter of several
steps: `StageModule` skips each, and the callback counts them.

Not here: printing warnings, and stopping (`callbacks/watchdogs.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from operator import ge, gt, lt
from typing import Any

from vqr1.config import WatchConfig

Metrics = Mapping[str, float]
"""Metrics of one training step by name (`rollout_metrics`, `kl`, ...)."""

CONSTANT_REWARD = math.sqrt(0.5)
"""Fidelity reward of a predictor that cannot distinguish any two images."""


def _constant(reward: float, limit: float) -> bool:
    return abs(reward - CONSTANT_REWARD) <= limit


RULES: dict[str, tuple[str, Callable[[float, float], bool], str]] = {
    "zero_variance": (
        "zero_variance_rate",
        ge,
        "no group's rewards differ, so nothing is learned; raise rollout.sampling.temperature or "
        "grpo.group_size, and look at the sample answers",
    ),
    "constant": (
        "reward/fidelity",
        _constant,
        "the fidelity reward stays at .707, which a constant predictor earns: the policy cannot "
        "distinguish images; compare val/srcc, lower optimizer.lr, raise loss.kl_weight, and check "
        "that the MOS belong to the images",
    ),
    "format_rate": (
        "format_compliance_rate",
        lt,
        "too few responses have the required format; raise the weight of the format reward or "
        "rollout.sampling.max_new_tokens, or choose a prompt that the policy follows",
    ),
    "kl": (
        "kl",
        gt,
        "the policy is far from its reference; lower optimizer.lr or raise loss.kl_weight",
    ),
    "length": (
        "length_growth",
        gt,
        "responses run away in length; stop at </answer> (rollout.sampling.stop=answer), lower "
        "rollout.sampling.max_new_tokens, or use loss.averaging=dr_grpo",
    ),
    "entropy": (
        "entropy",
        lt,
        "the policy answers nearly the same every time, so groups will stop differing; lower "
        "optimizer.lr, raise loss.kl_weight or rollout.sampling.temperature",
    ),
}
"""Of every watchdog the metric, when a value holds against the limit, and the advice."""


class Watchdog:
    """One rule with its memory.

    Args:
        name: a key of `RULES`.
        config: its limit, its patience, and what it does.
    """

    def __init__(self, name: str, config: WatchConfig) -> None:
        self.name = name
        self.config = config
        self.held = 0

    def observe(self, metrics: Metrics) -> str | None:
        """Look at one step; the message at the step at which the patience is used up."""
        metric, holds, advice = RULES[self.name]
        if metric not in metrics:
            return None
        self.held = self.held + 1 if holds(metrics[metric], self.config.limit) else 0
        if self.held != self.config.steps:
            return None
        return f"{self.name} (limit {self.config.limit:g}, {self.held} steps in a row): {advice}"


class LengthGrowth:
    """Response length relative to its mean over the first steps.

    Args:
        steps: steps that make the mean.
    """

    def __init__(self, steps: int = 10) -> None:
        self.steps = steps
        self.seen = 0
        self.mean = 0.0

    def observe(self, length: float) -> float:
        """The ratio; 1 while the mean is being made."""
        if self.seen < self.steps:
            self.seen += 1
            self.mean += (length - self.mean) / self.seen
            return 1.0
        return length / self.mean if self.mean else 1.0

    def state_dict(self) -> dict[str, Any]:
        """The mean so far."""
        return {"seen": self.seen, "mean": self.mean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved mean."""
        self.seen, self.mean = state["seen"], state["mean"]
