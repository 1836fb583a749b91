"""REINFORCE++: rewards standardised over the tokens of the whole step.

    baseline=true    A = whitened(r_k(i) - mean_i)
    baseline=false   A = whitened(r_k(i))                      no comparison within a group

Mean and unbiased variance are over all tokens of the step, so that a long response counts by its
length; the discount is 1, hence all tokens of a response have one advantage. Without the baseline
groups of equal rewards are trained on too. The published method subtracts a KL from the reward of
each token; here it is a term of the loss (`loss.kl_weight`).

Source: arXiv 2501.03262 as in verl.
"""

from __future__ import annotations

from pydantic.dataclasses import dataclass
from torch import Tensor

from vqr1.config.types import STRICT_KEYS
from vqr1.training.advantages.base import AdvantageInputs
from vqr1.training.advantages.group_normalised import group_advantages

WHITENING_EPSILON = 1e-8
"""Added to the variance (verl)."""


def whitened_over_tokens(values: Tensor, lengths: Tensor) -> Tensor:
    """Values of responses, standardised over the tokens of all of them.

    Args:
        values: [G, K], one for all tokens of a response.
        lengths: [G, K] tokens of each response; one without tokens counts for nothing.

    Returns:
        [G, K]; the mean is removed and nothing divided where all tokens have one value, or there
        are fewer than two.
    """
    weight = lengths.to(values.dtype)
    tokens = weight.sum().clamp_min(1)
    centred = values - (values * weight).sum() / tokens
    variance = (centred**2 * weight).sum() / tokens * tokens / (tokens - 1).clamp_min(1)
    return centred * (variance + WHITENING_EPSILON).rsqrt()


@dataclass(config=STRICT_KEYS, kw_only=True, frozen=True)
class ReinforcePlusPlus:
    """`conf/advantage/reinforce_pp.yaml`."""

    baseline: bool = True
    """Subtract the mean of each image's rewards first (REINFORCE++ with baseline)."""

    @property
    def trains_equal_groups(self) -> bool:
        """Without the baseline a group's level counts, and not only its differences."""
        return not self.baseline

    def __call__(self, inputs: AdvantageInputs) -> Tensor:
        """See the module header."""
        rewards = inputs.rewards
        if self.baseline:
            rewards = group_advantages(rewards, normalise_std=False)
        return whitened_over_tokens(rewards, inputs.lengths)
