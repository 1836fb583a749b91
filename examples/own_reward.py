"""Train with a reward of your own: 1 where the score is within `width` of the MOS, else 0."""

from __future__ import annotations

import sys

from torch import Tensor

from vqr1.cli.train import main
from vqr1.rewards import RewardInputs


class Closeness:
    """[B, K] rewards of B images with K answers each."""

    ranks = False  # it compares no images

    def __init__(self, width: float) -> None:
        self.width = width

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """1.0 or 0.0 for each answer; 0.0 where it holds no score."""
        distance = (inputs.scores - inputs.mos[:, None]).abs()
        return ((distance < self.width) & inputs.valid).float()


if __name__ == "__main__":
    sys.argv[1:1] = [
        "+reward.terms.closeness._target_=own_reward.Closeness",
        "+reward.terms.closeness.width=0.5",
        "+reward.terms.closeness.weight=0.3",
    ]
    main()
