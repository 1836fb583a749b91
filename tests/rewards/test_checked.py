"""What a reward term may return: anything else is refused by the term's name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from vqr1.config import RewardConfig
from vqr1.errors import ConfigError, RunFaultError
from vqr1.rewards import FormatReward, RewardInputs, WeightedRewards
from vqr1.rewards.base import LARGEST_REWARD
from vqr1.rewards.build import build_rewards
from vqr1.training.advantages import group_advantages

B, K = 3, 3


class Own:
    ranks = False

    def __init__(self, returned: Callable[[Tensor], Any]) -> None:
        self.returned = returned

    def __call__(self, inputs: RewardInputs) -> Any:
        return self.returned(inputs.scores)


def rewarded(returned: Callable[[Tensor], Any], weight: float = 1.0) -> Any:
    yes = torch.ones(B, K, dtype=torch.bool)
    inputs = RewardInputs(torch.ones(B, K), yes, yes, torch.tensor([1.0, 3.0, 5.0]))
    terms = {"format": (1.0, FormatReward()), "mine": (weight, Own(returned))}
    return WeightedRewards(terms)(inputs)


@pytest.mark.parametrize(
    ("returned", "found"),
    [
        # B = K: each of these would be broadcast to [B, K] without an error.
        (lambda x: torch.ones(K), r"gave the shape \[3\]"),
        (lambda x: torch.ones(B, 1), r"gave the shape \[3, 1\]"),
        (lambda x: torch.ones(1, K), r"gave the shape \[1, 3\]"),
        (lambda x: torch.ones(()), r"gave the shape \[\]"),
        (lambda x: torch.ones(2, B, K), r"gave the shape \[2, 3, 3\]"),
        (lambda x: x > 0, r"gave torch.bool.*\(.float\(\)\)"),
        (lambda x: x.long(), "gave torch.int64"),
        (lambda x: x.to(torch.complex64), "gave torch.complex64"),
        (lambda x: x.to("meta"), "gave a tensor on meta"),
        (lambda x: x.numpy(), "gave a ndarray"),
        (lambda x: 1.0, "gave a float"),
        (lambda x: None, "gave a NoneType"),
    ],
)
def test_shape_type_and_device(returned: Callable[[Tensor], Any], found: str) -> None:
    with pytest.raises(ConfigError, match=rf"^reward.terms.mine: {found}") as error:
        rewarded(returned)
    assert "it must return a [B, K] = [3, 3] floating-point tensor on cpu" in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2 * LARGEST_REWARD])
def test_numbers(value: float) -> None:
    def one_bad(scores: Tensor) -> Tensor:
        scores = scores.clone()
        scores[1, 2] = value
        return scores

    with pytest.raises(
        RunFaultError, match=r"^reward.terms.mine: gave .* for response 2 of image 1 \(1 of 9"
    ) as error:
        rewarded(one_bad)
    assert error.value.exit_code == 74


def test_the_sum_is_checked_too() -> None:
    # 1e10 * 1e10 = 1e20, each of them within bounds.
    with pytest.raises(RunFaultError, match=r"^reward.terms \(weighted sum\): gave 1.0"):
        rewarded(lambda x: x * 1e10, weight=1e10)


def test_what_is_right_is_taken_as_it_is() -> None:
    total, terms = rewarded(lambda x: (2 * x).double().requires_grad_(), weight=0.5)
    # format 1 + .5 * 2, in the scores' own type and without history
    assert total.tolist() == [[2.0] * K] * B
    assert (terms["mine"].dtype, terms["mine"].requires_grad) == (torch.float32, False)


@pytest.mark.parametrize("target", ["fractions.Fraction", "torch.nn.Identity"])
def test_a_class_that_is_no_reward(target: str) -> None:
    with pytest.raises(ConfigError, match=rf"reward.terms.mine: {target}: no reward; .* ranks"):
        build_rewards(RewardConfig(terms={"mine": {"_target_": target}}))


def test_the_largest_rewards_still_have_advantages() -> None:
    # Mean 0, unbiased standard deviation 1e15; the squares are 1e30.
    rewards = torch.tensor([[LARGEST_REWARD, 0.0, -LARGEST_REWARD]])
    torch.testing.assert_close(group_advantages(rewards), torch.tensor([[1.0, 0.0, -1.0]]))
