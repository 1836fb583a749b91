"""From typed configuration to the advantage rule."""

from __future__ import annotations

from typing import cast

from vqr1.config import AdvantageConfig
from vqr1.config.targets import build_target
from vqr1.errors import ConfigError
from vqr1.training.advantages.base import AdvantageRule


def build_advantage(config: AdvantageConfig) -> AdvantageRule:
    """Instantiate the advantage rule.

    Raises:
        ConfigError: the class does not exist, does not take an argument or its value, or its
            objects cannot be called.
    """
    rule = build_target("advantage", config.target, config.arguments)
    if not callable(rule):
        raise ConfigError(
            [
                f"advantage: {config.target}: no advantage rule; its objects need "
                "__call__(inputs), as vqr1.training.advantages.AdvantageRule has it"
            ]
        )
    return cast(AdvantageRule, rule)
