"""Losses: one a file, chosen by `conf/loss`; typed inputs and averaging in `base.py`."""

from vqr1.training.losses.base import LossInputs, PolicyLoss
from vqr1.training.losses.build import build_loss
from vqr1.training.losses.grpo import GrpoLoss

__all__ = ["GrpoLoss", "LossInputs", "PolicyLoss", "build_loss"]
