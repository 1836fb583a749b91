"""Losses: one a file, chosen by `conf/loss`.

Typed inputs are in `base.py`, what the losses share in `policy_gradient.py`, averaging in
`averaging.py`.
"""

from vqr1.training.losses.base import LossInputs, PolicyLoss
from vqr1.training.losses.build import build_loss
from vqr1.training.losses.cispo import CispoLoss
from vqr1.training.losses.clip_cov import ClipCovLoss
from vqr1.training.losses.grpo import GrpoLoss
from vqr1.training.losses.kl_cov import KlCovLoss
from vqr1.training.losses.sapo import SapoLoss
from vqr1.training.losses.vespo import VespoLoss

__all__ = [
    "CispoLoss",
    "ClipCovLoss",
    "GrpoLoss",
    "KlCovLoss",
    "LossInputs",
    "PolicyLoss",
    "SapoLoss",
    "VespoLoss",
    "build_loss",
]
