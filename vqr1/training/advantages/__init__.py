"""Advantage rules: one a file, chosen by `conf/advantage`; typed inputs in `base.py`."""

from vqr1.training.advantages.base import AdvantageInputs, AdvantageRule, groups_with_variance
from vqr1.training.advantages.batch_normalised import BatchNormalised
from vqr1.training.advantages.build import build_advantage
from vqr1.training.advantages.by_component import ByComponent
from vqr1.training.advantages.gdpo import Gdpo
from vqr1.training.advantages.group_normalised import GroupNormalised, group_advantages
from vqr1.training.advantages.leave_one_out import LeaveOneOut
from vqr1.training.advantages.reinforce_pp import ReinforcePlusPlus
from vqr1.training.advantages.shift_free import ShiftFree
from vqr1.training.advantages.uncertainty import UncertaintyScaled

__all__ = [
    "AdvantageInputs",
    "AdvantageRule",
    "BatchNormalised",
    "ByComponent",
    "Gdpo",
    "GroupNormalised",
    "LeaveOneOut",
    "ReinforcePlusPlus",
    "ShiftFree",
    "UncertaintyScaled",
    "build_advantage",
    "group_advantages",
    "groups_with_variance",
]
