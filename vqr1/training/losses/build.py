"""From typed configuration to the loss."""

from __future__ import annotations

from vqr1.config import LossConfig
from vqr1.config.targets import build_target
from vqr1.errors import ConfigError
from vqr1.training.losses.base import PolicyLoss


def build_loss(config: LossConfig) -> PolicyLoss:
    """Instantiate the loss.

    Raises:
        ConfigError: the class does not exist or is no loss, does not take an argument or its value,
            or has a KL weight that its configuration does not give.
    """
    loss = build_target("loss", config.target, config.all_arguments())
    if not isinstance(loss, PolicyLoss):
        raise ConfigError(
            [
                f"loss: {config.target}: no loss; it must be a subclass of "
                "vqr1.training.losses.PolicyLoss"
            ]
        )
    # The plan of a run's memory and time knows the configuration only.
    if loss.kl_weight != (config.kl_weight or 0.0):
        raise ConfigError(
            [
                f"loss: {config.target} has kl_weight={loss.kl_weight}, and its configuration "
                f"{config.kl_weight}; give the weight as the key loss.kl_weight"
            ]
        )
    return loss
