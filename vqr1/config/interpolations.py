"""The interpolations of `conf/`: values that depend on the model or on the machine."""

from __future__ import annotations

from omegaconf import OmegaConf

from vqr1.config import machine_defaults, model_defaults


def register() -> None:
    """Make them known; call before composing. Registering twice does nothing."""
    for module in (model_defaults, machine_defaults):
        OmegaConf.register_new_resolver(module.RESOLVER, module.resolve, replace=True)
