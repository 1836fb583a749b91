"""RLOO: each response against the mean reward of the OTHER answers to the same image.

    A_k(i) = r_k(i) - mean over l != k of r_l(i) = K / (K - 1) (r_k(i) - mean_i)

With `normalise`, the advantages of the whole step are then standardised. The published method
subtracts beta times the log-ratio to the reference from the reward; here the KL is a term of the
loss (`loss.kl_weight`). Source: arXiv 2402.14740 as in TRL.
"""

from __future__ import annotations

from pydantic.dataclasses import dataclass
from torch import Tensor

from vqr1.config.types import STRICT_KEYS
from vqr1.training.advantages.base import AdvantageInputs
from vqr1.training.advantages.group_normalised import STD_EPSILON, group_advantages


def leave_one_out_advantages(rewards: Tensor, *, normalise: bool = False) -> Tensor:
    """RLOO advantages.

    Args:
        rewards: [G, K] total rewards, K at least 2.
        normalise: subtract the mean of the step's G K advantages and divide by their unbiased
            standard deviation (+1e-4).

    Returns:
        [G, K]; without `normalise` exactly 0 for a zero-variance group.
    """
    count = rewards.shape[1]
    advantages = group_advantages(rewards, normalise_std=False) * (count / (count - 1))
    if normalise:
        advantages = (advantages - advantages.mean()) / (advantages.std() + STD_EPSILON)
    return advantages


@dataclass(config=STRICT_KEYS, kw_only=True, frozen=True)
class LeaveOneOut:
    """`conf/advantage/leave_one_out.yaml`."""

    normalise: bool = False
    """Standardise the advantages of the whole step."""

    def __call__(self, inputs: AdvantageInputs) -> Tensor:
        """See `leave_one_out_advantages`."""
        return leave_one_out_advantages(inputs.rewards, normalise=self.normalise)
