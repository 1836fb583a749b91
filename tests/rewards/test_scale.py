"""Scores and MOS on one scale, whatever the prompt asks for."""

from __future__ import annotations

import math

import pytest
import torch

from vqr1.rewards import (
    FidelityReward,
    MarginReward,
    MseReward,
    Reward,
    ThresholdReward,
    WeightedRewards,
)
from vqr1.rewards.scale import mos_fit, to_reward_scale
from vqr1.training.group_answers import GroupAnswers, reward_inputs

NAN = math.nan
MOS = torch.tensor([3.0, 4.0])
# The same answers on [1, 5] and, by s = 25 (q - 1), on [0, 100]; the second image's are perfect.
ON_FIVE = torch.tensor([[3.0, 1.0, NAN], [4.0, 4.0, 4.25]])
ON_HUNDRED = torch.tensor([[50.0, 0.0, NAN], [75.0, 75.0, 81.25]])


def rewards_of(
    reward: Reward,
    scores: torch.Tensor,
    score_range: tuple[float, float],
    mos: torch.Tensor = MOS,
    mos_range: tuple[float, float] = (1.0, 5.0),
) -> torch.Tensor:
    count = torch.ones_like(scores, dtype=torch.int64)
    same = torch.zeros(2).long()
    rows = torch.arange(2)
    answers = GroupAnswers(
        scores, count.bool(), count.bool(), count, mos, same, rows, torch.full((2,), NAN), rows
    )
    return WeightedRewards({"own": (1.0, reward)})(reward_inputs(answers, score_range, mos_range))[
        0
    ]


def test_the_scale_by_hand() -> None:
    # 1 + 4 x / 100; beyond the ends by a quarter of the range: 0 and 6
    given = torch.tensor([0.0, 25.0, 50.0, 100.0, -25.0, 125.0])
    assert to_reward_scale(given, (0.0, 100.0)).tolist() == [1.0, 2.0, 3.0, 5.0, 0.0, 6.0]
    # 1 + 4 (x + 1) / 2
    assert to_reward_scale(torch.tensor([-1.0, 0.5]), (-1.0, 1.0)).tolist() == [1.0, 4.0]
    odd = torch.rand(100, generator=torch.Generator().manual_seed(0)) * 6
    assert to_reward_scale(odd, (1.0, 5.0)).equal(odd)


def test_perfect_answers_on_another_scale() -> None:
    # mse: 0 and -(1-3)^2 = -4, invalid -16; 0, 0 and -(.25)^2
    expected = torch.tensor([[0.0, -4.0, -16.0], [0.0, 0.0, -0.0625]])
    torch.testing.assert_close(rewards_of(MseReward(), ON_HUNDRED, (0.0, 100.0)), expected)
    # threshold .35 on [1, 5]: 81.25 is .25 away
    found = rewards_of(ThresholdReward(), ON_HUNDRED, (0.0, 100.0))
    assert found.tolist() == [[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]


@pytest.mark.parametrize(
    "reward",
    [
        MseReward(), ThresholdReward(), MarginReward(), MarginReward(width=None),
        FidelityReward(), FidelityReward(fixed_variance=1.0), FidelityReward(variance_floor=0.1),
    ],
)  # fmt: skip
def test_the_same_answers_earn_the_same(reward: Reward) -> None:
    on_five = rewards_of(reward, ON_FIVE, (1.0, 5.0))
    torch.testing.assert_close(rewards_of(reward, ON_HUNDRED, (0.0, 100.0)), on_five)
    # MOS as published, on the scale that the prompt asks for.
    published = rewards_of(reward, ON_HUNDRED, (0.0, 100.0), 25 * (MOS - 1), (0.0, 100.0))
    torch.testing.assert_close(published, on_five)
    assert on_five.unique().numel() >= 2


@pytest.mark.parametrize(
    ("mos", "asked", "fits"),
    [
        ((1.0, 4.93), (1.0, 5.0), True),
        ((0.0, 4.489), (1.0, 5.0), True),  # 0 to 6 is accepted
        ((3.42, 92.4), (0.0, 100.0), True),
        ((0.24, 7.21), (0.0, 9.0), True),
        ((5.0, 95.0), (1.0, 5.0), False),
        ((0.0, 1.0), (1.0, 5.0), False),  # spans a quarter
        ((1.0, 5.0), (0.0, 100.0), False),  # spans 4 of 100
        ((0.0, 100.0), (1.0, 5.0), False),
        ((math.nan, math.nan), (1.0, 5.0), False),
    ],
)
def test_which_mos_can_be_on_the_asked_scale(
    mos: tuple[float, float], asked: tuple[float, float], fits: bool
) -> None:
    assert mos_fit(*mos, asked) is fits


def test_which_terms_look_at_values() -> None:
    terms: dict[str, Reward] = {
        "fidelity": FidelityReward(), "mse": MseReward(), "margin": MarginReward(),
        "threshold": ThresholdReward(),
    }  # fmt: skip
    rewards = WeightedRewards({name: (1.0, reward) for name, reward in terms.items()})
    assert rewards.absolute == ["mse", "margin", "threshold"]
