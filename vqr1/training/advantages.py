"""Group-relative advantages: each response against the other answers to the same image.

    A_k(i) = (r_k(i) - mean_i) / (std_i + 1e-4),   std unbiased over the K responses

Source: the public VisualQuality-R1 training code (GRPO, arXiv 2402.03300).
"""

from __future__ import annotations

import torch
from torch import Tensor

STD_EPSILON = 1e-4
"""Added to the group's standard deviation (public code)."""
SIGNAL_TOLERANCE = 1e-6
"""Rewards of a group that lie closer together than this differ by rounding only."""


def groups_with_signal(rewards: Tensor) -> Tensor:
    """[B] bool: True where the K rewards of a group differ, so that there is something to learn.

    Args:
        rewards: [B, K] total rewards.
    """
    return (rewards.amax(dim=1) - rewards.amin(dim=1)) > SIGNAL_TOLERANCE


def group_advantages(rewards: Tensor, *, normalise_std: bool = True) -> Tensor:
    """Centre each group's rewards and, by default, divide by their standard deviation.

    Args:
        rewards: [B, K] total rewards, K at least 2.
        normalise_std: False centres only (Dr.GRPO, arXiv 2503.20783).

    Returns:
        [B, K] advantages, exactly 0 for a group without signal.
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    if normalise_std:
        centred = centred / (rewards.std(dim=1, keepdim=True) + STD_EPSILON)
    return torch.where(groups_with_signal(rewards)[:, None], centred, torch.zeros_like(centred))
