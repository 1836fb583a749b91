"""Preferences from repeated comparisons of pairs of images (EvoQuality, arXiv 2509.25787).

Not here: asking a model to compare; the reward built on preferences
(`vqr1.iqa.thurstone.preference_fidelity`).
"""

from __future__ import annotations

import torch
from torch import Tensor


def majority_preference(wins: Tensor, losses: Tensor) -> Tensor:
    """What the majority of votes states of each pair.

    Args:
        wins: [...] votes for the first image.
        losses: [...] votes for the second; votes that could not be read are in neither.

    Returns:
        [...] 1 where the first has more votes, 1/2 for a tie, 0 where the second has more; NaN
        without any vote.
    """
    preference = (torch.sign(wins - losses).float() + 1.0) / 2.0
    return preference.masked_fill(wins + losses == 0, torch.nan)
