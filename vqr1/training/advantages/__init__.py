"""Advantage rules: one a file, chosen by `conf/advantage`; typed inputs in `base.py`."""

from vqr1.training.advantages.base import AdvantageInputs, AdvantageRule, groups_with_variance
from vqr1.training.advantages.build import build_advantage
from vqr1.training.advantages.group_normalised import GroupNormalised, group_advantages

__all__ = [
    "AdvantageInputs",
    "AdvantageRule",
    "GroupNormalised",
    "build_advantage",
    "group_advantages",
    "groups_with_variance",
]
