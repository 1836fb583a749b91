from __future__ import annotations

import math

import pytest
import torch

from vqr1.training.advantages import group_advantages, groups_with_variance


def test_by_hand() -> None:
    # rewards 1, 2, 3: mean 2, unbiased std sqrt((1 + 0 + 1) / 2) = 1; (1 - 2) / (1 + 1e-4)
    advantages = group_advantages(torch.tensor([[1.0, 2.0, 3.0]]))
    assert advantages[0].tolist() == pytest.approx([-1 / 1.0001, 0.0, 1 / 1.0001], abs=1e-6)


def test_without_division_by_the_standard_deviation() -> None:
    advantages = group_advantages(torch.tensor([[1.0, 4.0]]), normalise_std=False)
    assert advantages[0].tolist() == [-1.5, 1.5]


def test_groups_without_signal() -> None:
    # Equal up to rounding in the last bit of a float32 near 1.7.
    rewards = torch.tensor([[1.7, 1.7, 1.7], [0.1, 0.2, 0.1]])
    rewards[0, 1] = math.nextafter(1.7, 2.0)
    assert groups_with_variance(rewards).tolist() == [False, True]
    assert group_advantages(rewards)[0].tolist() == [0.0, 0.0, 0.0]
