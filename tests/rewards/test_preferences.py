"""Rewards on stated preferences: where these are what MOS state, the same; elsewhere by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.stats import norm

from vqr1.iqa.thurstone import fidelity_reward, preference_fidelity, true_preferences
from vqr1.rewards import BinaryReward, FidelityReward, ProbabilityReward, RewardInputs
from vqr1.rewards.shuffled import ShuffledFidelityReward

GENERATOR = torch.Generator().manual_seed(3)
SCORES = torch.rand((5, 4), generator=GENERATOR) * 4 + 1
SCORES[1, 2] = math.nan
MOS = torch.tensor([1.0, 4.5, 3.0, 3.0, 2.0])


def inputs(preferences: torch.Tensor | None, mos: torch.Tensor = MOS) -> RewardInputs:
    return RewardInputs(
        SCORES, SCORES.isfinite(), SCORES.isfinite(), mos, torch.arange(5), preferences=preferences
    )


@pytest.mark.parametrize(
    "reward", [FidelityReward(), FidelityReward(fixed_variance=1.0), ProbabilityReward(),
               BinaryReward(), ShuffledFidelityReward()],
)  # fmt: skip
def test_the_order_of_the_mos_stated_as_pairs_earns_what_mos_earn(reward: Any) -> None:
    by_mos = reward(inputs(None))
    # MOS are not looked at where pairs are given.
    by_pairs = reward(inputs(true_preferences(MOS), mos=torch.zeros(5)))
    assert by_pairs.equal(by_mos)
    assert by_mos.abs().sum() > 0


def test_fidelity_by_mos_is_the_published_function() -> None:
    assert FidelityReward()(inputs(None)).equal(fidelity_reward(SCORES, MOS))
    # Probabilities of Thurstone's model of the MOS, in place of their order.
    p = torch.special.ndtr((MOS[:, None] - MOS[None, :]) / math.sqrt(2))
    assert FidelityReward()(inputs(p)).equal(preference_fidelity(SCORES, p))


def test_unstated_pairs_contribute_nothing() -> None:
    nan = math.nan
    # Only image 0 and 2 are compared; 0 is better with p = 3/4.
    stated = torch.full((5, 5), nan)
    stated[0, 2], stated[2, 0] = 0.75, 0.25
    scores = SCORES.double()
    mean, variance = scores.nanmean(dim=1), scores[[0, 2]].var(dim=1)
    width = math.sqrt(float(variance.sum()) + 1e-6)
    q = norm.cdf((scores[0] - mean[2]).numpy() / width)
    expected = {
        FidelityReward: (0.75 * q + 1e-6) ** 0.5 + (0.25 * (1 - q) + 1e-6) ** 0.5,
        ProbabilityReward: 0.75 * q + 0.25 * (1 - q),
        BinaryReward: (scores[0] > mean[2]).numpy().astype(float),
    }
    for kind, values in expected.items():
        found = kind()(inputs(stated))
        torch.testing.assert_close(found[0].double(), torch.tensor(values), rtol=0, atol=1e-6)
        assert found[[1, 3, 4]].abs().sum() == 0
