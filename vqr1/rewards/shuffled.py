"""Control: the fidelity reward with the MOS of another image for every image.

A platform that learns from this reward learns from something else than quality. The MOS
of the batch move on by one place; since batches are drawn at random, that is a random assignment in
which no image keeps its own score. It is no neutral one: what is excluded correlates by -1/(B-1)
with quality on average, strongly in batches of few images.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from vqr1.rewards.base import RewardInputs
from vqr1.rewards.fidelity import FidelityReward


class ShuffledFidelityReward(FidelityReward):
    """`FidelityReward` on MOS, or stated preferences, that belong to other images."""

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """[B, K] in [0, 1.001]; 0 for invalid answers."""
        stated = inputs.preferences
        moved = None if stated is None else stated.roll((1, 1), (0, 1))
        return super().__call__(replace(inputs, mos=inputs.mos.roll(1), preferences=moved))
