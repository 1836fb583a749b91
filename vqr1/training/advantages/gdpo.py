"""GDPO: every reward term is normalised by itself, before the terms are added.

    z_n,k(i) = (r_n,k(i) - mean_i) / (std_i + eps)          of each term n, over the K responses
    s_k(i)   = sum_n w_n z_n,k(i)
    A        = (s - mean) / (std + eps)                     over the whole step

Where the terms are added first (GRPO), different combinations of terms that add up to the same
total have the same advantage; here a term of small range counts as much as one of large range.
Terms with a weight of 0 do not count.

Source: arXiv 2601.05242; TRL standardises over responses with eps 1e-4, verl over tokens with eps
1e-6 (`whitening=tokens`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from vqr1.config.types import STRICT_KEYS, PositiveFloat
from vqr1.training.advantages.base import AdvantageInputs, groups_with_variance
from vqr1.training.advantages.reinforce_pp import whitened_over_tokens


def normalised_terms(
    terms: Mapping[str, Tensor], weights: Mapping[str, float], epsilon: float
) -> Tensor:
    """S of the module header: [G, K].

    Args:
        terms: each term's [G, K] rewards.
        weights: their weights; 1 where not named.
        epsilon: added to each group's unbiased standard deviation.
    """
    total = None
    for name, rewards in terms.items():
        centred = rewards - rewards.mean(dim=1, keepdim=True)
        scaled = centred / (rewards.std(dim=1, keepdim=True) + epsilon)
        differs = groups_with_variance(rewards)[:, None]
        part = weights.get(name, 1.0) * torch.where(differs, scaled, torch.zeros_like(scaled))
        total = part if total is None else total + part
    assert total is not None, "a reward has at least one term"
    return total


def _over_responses(values: Tensor, _: Tensor, epsilon: float) -> Tensor:
    return (values - values.mean()) / (values.std() + epsilon)


def _over_tokens(values: Tensor, lengths: Tensor, _: float) -> Tensor:
    return whitened_over_tokens(values, lengths)


Whitening = Literal["responses", "tokens"]

WHITENING: Mapping[Whitening, Callable[[Tensor, Tensor, float], Tensor]] = {
    "responses": _over_responses,
    "tokens": _over_tokens,
}
"""The last line of the module header: of [G, K] sums, their lengths [G, K] and eps."""


@dataclass(config=STRICT_KEYS, kw_only=True, frozen=True)
class Gdpo:
    """`conf/advantage/gdpo.yaml`."""

    epsilon: PositiveFloat = 1e-4
    """Added to standard deviations."""
    whitening: Whitening = "responses"
    """What the last standardisation is taken over."""

    trains_equal_groups = True

    def __call__(self, inputs: AdvantageInputs) -> Tensor:
        """See the module header.

        0 for groups of which no term differs: over tokens the public code gives all their responses
        one and the same advantage, that of the distance from the step's mean.
        """
        summed = normalised_terms(inputs.terms, inputs.weights, self.epsilon)
        whitened = WHITENING[self.whitening](summed, inputs.lengths, self.epsilon)
        return whitened.masked_fill((summed == 0).all(dim=1, keepdim=True), 0.0)
