"""Component-wise credit: each reward term's advantage goes to the tokens of its own field only.

    z_n,k(i)  = (r_n,k(i) - mean_i) / (std_i + 1e-6)    of term n, over the eligible responses
    A_k,f(i)  = sum over the terms n of field f of w_n z_n,k(i)

Responses whose answer cannot be parsed are not eligible for the terms named by `of_valid`: they
have the advantage 0 there and enter neither mean nor standard deviation. A term with fewer than
two eligible responses, or with equal rewards, has the advantage 0 everywhere.

Source: MR-IQA-2 (arXiv 2608.18579); std is unbiased.
"""

from __future__ import annotations

import torch
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from vqr1.config.types import STRICT_KEYS
from vqr1.training.advantages.base import VARIANCE_TOLERANCE, AdvantageInputs

STD_EPSILON = 1e-6
"""Added to a term's standard deviation (public code)."""


def eligible_advantages(rewards: Tensor, eligible: Tensor) -> Tensor:
    """Z of the module header.

    Args:
        rewards: [G, K] of one term.
        eligible: [G, K] bool, the responses that are compared.

    Returns:
        [G, K]; 0 where not eligible.
    """
    count = eligible.sum(dim=1, keepdim=True)
    values = torch.where(eligible, rewards, torch.zeros_like(rewards))
    centred = values - values.sum(dim=1, keepdim=True) / count.clamp_min(1)
    centred = torch.where(eligible, centred, torch.zeros_like(centred))
    std = ((centred**2).sum(dim=1, keepdim=True) / (count - 1).clamp_min(1)).sqrt()
    highest = rewards.masked_fill(~eligible, -torch.inf).amax(dim=1, keepdim=True)
    lowest = rewards.masked_fill(~eligible, torch.inf).amin(dim=1, keepdim=True)
    differs = (count >= 2) & (highest - lowest > VARIANCE_TOLERANCE)
    return torch.where(differs, centred / (std + STD_EPSILON), torch.zeros_like(centred))


@dataclass(config=STRICT_KEYS, kw_only=True, frozen=True)
class ByComponent:
    """`conf/advantage/by_component.yaml`."""

    components: dict[str, list[str]]
    """Names of the reward terms that are credited to each field of the answer (`reasoning`,
    `score`, ...; `response` is the whole response)."""
    of_valid: list[str] | None = None
    """Terms that compare the responses with a score only; null: none."""

    trains_equal_groups = True

    @model_validator(mode="after")
    def _named(self) -> ByComponent:
        if not self.components or not all(self.components.values()):
            raise ValueError("components: name at least one field, each with a reward term")
        strange = set(self.of_valid or ()) - set(self.terms)
        if strange:
            raise ValueError(f"of_valid: {', '.join(sorted(strange))}: no term of components")
        return self

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of the answer in the order of the advantages' last axis."""
        return tuple(self.components)

    @property
    def terms(self) -> tuple[str, ...]:
        """The reward terms that are credited, each once."""
        return tuple(dict.fromkeys(term for terms in self.components.values() for term in terms))

    def __call__(self, inputs: AdvantageInputs) -> Tensor:
        """[G, K, F], see the module header; the reward has all of `terms`."""
        by_field = [
            torch.stack([self._credit(inputs, term) for term in terms]).sum(dim=0)
            for terms in self.components.values()
        ]
        return torch.stack(by_field, dim=2)

    def _credit(self, inputs: AdvantageInputs, term: str) -> Tensor:
        rewards = inputs.terms[term]
        every = torch.ones_like(inputs.valid)
        eligible = inputs.valid if term in (self.of_valid or ()) else every
        return inputs.weights.get(term, 1.0) * eligible_advantages(rewards, eligible)
