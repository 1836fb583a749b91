from __future__ import annotations

import math

import torch

from vqr1.iqa.thurstone import fidelity_reward
from vqr1.rewards import (
    FidelityReward,
    FormatReward,
    MseReward,
    RewardInputs,
    ShuffledFidelityReward,
    WeightedRewards,
)

INPUTS = RewardInputs(
    scores=torch.tensor([[1.0, 2.0, math.nan], [4.0, 3.0, 5.0]]),
    valid=torch.tensor([[True, True, False], [True, True, True]]),
    format_compliant=torch.tensor([[True, False, False], [True, True, False]]),
    mos=torch.tensor([2.0, 4.5]),
)


def test_mse_by_hand() -> None:
    # (1-2)^2 = 1, (2-2)^2 = 0, invalid: the worst error on [1, 5], 16
    # (4-4.5)^2 = .25, (3-4.5)^2 = 2.25, (5-4.5)^2 = .25
    expected = torch.tensor([[-1.0, 0.0, -16.0], [-0.25, -2.25, -0.25]])
    torch.testing.assert_close(MseReward()(INPUTS), expected)


def test_a_wild_score_is_no_worse_than_an_unreadable_one() -> None:
    inputs = RewardInputs(
        scores=torch.tensor([[90.0, math.nan]]),
        valid=torch.tensor([[True, False]]),
        format_compliant=torch.ones(1, 2, dtype=torch.bool),
        mos=torch.tensor([1.0]),
    )
    assert MseReward()(inputs).tolist() == [[-16.0, -16.0]]


def test_format() -> None:
    assert FormatReward()(INPUTS).tolist() == [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]


def test_fidelity_binds_its_constants() -> None:
    reward = FidelityReward(gamma=0.5, variance_floor=0.1)
    expected = fidelity_reward(
        INPUTS.scores, INPUTS.mos, INPUTS.valid, gamma=0.5, variance_floor=0.1
    )
    torch.testing.assert_close(reward(INPUTS), expected)
    assert not torch.allclose(expected, FidelityReward()(INPUTS))


def test_weighted_sum_keeps_the_terms() -> None:
    rewards = WeightedRewards({"mse": (0.5, MseReward()), "format": (2.0, FormatReward())})
    total, terms = rewards(INPUTS)
    # first response: .5 * -1 + 2 * 1 = 1.5
    assert total[0, 0].item() == 1.5
    assert set(terms) == {"mse", "format"}
    torch.testing.assert_close(terms["mse"], MseReward()(INPUTS))
    assert not rewards.ranks
    assert WeightedRewards({"fidelity": (1.0, FidelityReward())}).ranks


def test_shuffled_control_uses_the_neighbours_mos() -> None:
    expected = fidelity_reward(INPUTS.scores, torch.tensor([4.5, 2.0]), INPUTS.valid)
    torch.testing.assert_close(ShuffledFidelityReward()(INPUTS), expected)
