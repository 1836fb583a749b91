"""What a reward is, and the weighted sum of several.

A reward of your own needs no change here: any callable object from `RewardInputs` to a [B, K]
tensor, named by `_target_` in a YAML file under `conf/reward/`. Shapes: see `vqr1.records`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class RewardInputs:
    """Everything a reward may look at: one comparison pool, all of one data set.

    Attributes:
        scores: [B, K] float32 parsed scores, NaN where not valid.
        valid: [B, K] bool, the answer could be parsed.
        well_formed: [B, K] bool, the response has the demanded format.
        mos: [B] float32 opinion scores scaled to [1, 5], higher is better.
        images: [B] int64 row of each image in its set's label table; copies of one image, which
            must not be compared with each other, have the same. None: all images differ.
    """

    scores: Tensor
    valid: Tensor
    well_formed: Tensor
    mos: Tensor
    images: Tensor | None = None


class Reward(Protocol):
    """A reward term.

    Attributes:
        ranks: True when the reward compares images with each other and so needs a pool of two or
            more images.
    """

    ranks: bool

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """[B, K] float32 reward of each response; finite for invalid ones too."""
        ...


class WeightedRewards:
    """Weighted sum of named reward terms.

    Args:
        terms: each term's weight and reward by name.
    """

    def __init__(self, terms: Mapping[str, tuple[float, Reward]]) -> None:
        self.terms = dict(terms)

    @property
    def ranks(self) -> bool:
        """True when any term compares images with each other."""
        return any(reward.ranks for _, reward in self.terms.values())

    def __call__(self, inputs: RewardInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum the terms.

        Returns:
            The [B, K] weighted sum, and each term's own unweighted [B, K] reward by name.
        """
        parts = {name: reward(inputs) for name, (_, reward) in self.terms.items()}
        total = sum(weight * parts[name] for name, (weight, _) in self.terms.items())
        assert isinstance(total, Tensor), "a reward needs at least one term"
        return total, parts
