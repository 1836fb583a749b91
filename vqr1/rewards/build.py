"""From typed configuration to reward objects; what they may be given is checked on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vqr1.config import RewardConfig
from vqr1.config.targets import build_target
from vqr1.errors import ConfigError
from vqr1.rewards import Reward, WeightedRewards
from vqr1.rewards.base import OWN_ONLY, needs_of


def build_rewards(config: RewardConfig, key: str = "reward") -> WeightedRewards:
    """Instantiate every reward term.

    Args:
        config: the terms.
        key: their dotted configuration key.

    Raises:
        ConfigError: all terms that lack a target, whose weight (1 if not given) is no number, that
            name a class that does not exist or is no reward, or give it an argument that it does
            not take.
    """
    problems: list[str] = []
    terms: dict[str, tuple[float, Reward]] = {}
    for name, values in config.terms.items():
        term = f"{key}.terms.{name}"
        weight = values.get("weight", 1.0)
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight):
            problems.append(f"{term}.weight={weight!r}: must be a finite number")
            continue
        reward = _instantiate(term, values, problems)
        if reward is not None:
            terms[name] = (float(weight), reward)
    if not config.terms:
        problems.append(f"{key}.terms: empty; name at least one reward")
    if problems:
        raise ConfigError(problems)
    return WeightedRewards(terms)


def _instantiate(key: str, values: Mapping[str, Any], problems: list[str]) -> Reward | None:
    target = values.get("_target_")
    if not isinstance(target, str):
        problems.append(f"{key}._target_: missing; name a class, such as vqr1.rewards.MseReward")
        return None
    arguments = {name: v for name, v in values.items() if name not in ("_target_", "weight")}
    try:
        reward: Any = build_target(key, target, arguments)
    except ConfigError as error:
        problems += error.problems
        return None
    if not callable(reward) or not isinstance(getattr(reward, "ranks", None), bool):
        problems.append(
            f"{key}: {target}: no reward; its objects need the attribute ranks (True or False) and "
            "__call__(inputs), as vqr1.rewards.Reward has them"
        )
        return None
    unsent = sorted(OWN_ONLY.intersection(needs_of(reward))) if reward.ranks else []
    if unsent:
        problems.append(
            f"{key}: {target}: compares images of several processes (ranks=True) and needs "
            f"{', '.join(unsent)}, which stay in their own; set ranks to False, or look at scores"
        )
        return None
    return reward
