from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from scipy.stats import norm

from vqr1.iqa.thurstone import comparison_probabilities, fidelity_reward, score_statistics
from vqr1.training.advantages import group_advantages


def test_equals_the_published_vectors(shared: Path) -> None:
    cases = json.loads((shared / "reference" / "fidelity_vectors.json").read_text())["cases"]
    assert len(cases) == 12
    for case in cases:
        reward = fidelity_reward(torch.tensor(case["scores"]), torch.tensor(case["mos"]))
        # The file holds 6 decimals.
        torch.testing.assert_close(reward, torch.tensor(case["reward"]), rtol=0, atol=1e-6)
        # Every response also earned a format reward of 1. The file holds 4 decimals: half a unit
        # of the last one is rounding, what goes beyond it must stay under 1e-5.
        advantage = group_advantages(reward + 1.0)
        expected = torch.tensor(case["advantage_with_full_format"])
        torch.testing.assert_close(advantage, expected, rtol=0, atol=5e-5 + 1e-5)


def test_hand_computed_pair() -> None:
    # scores of image 0: 3, 5 -> mean 4, unbiased variance ((-1)^2 + 1^2) / 1 = 2
    # scores of image 1: 2, 2 -> mean 2, variance 0
    # p_0(0, 1) = Phi((3 - 2) / sqrt(2 + 0 + 1e-6)) = Phi(.70710...) = .76025
    # MOS 0 above MOS 1: p = 1; fidelity = sqrt(.76025 + 1e-6) + sqrt(1e-6) = .87192 + .001
    scores = torch.tensor([[3.0, 5.0], [2.0, 2.0]], dtype=torch.float64)
    reward = fidelity_reward(scores, torch.tensor([4.0, 1.0]))
    p = norm.cdf(1 / math.sqrt(2 + 1e-6))
    assert reward[0, 0].item() == pytest.approx(math.sqrt(p + 1e-6) + 1e-3, abs=1e-9)
    assert reward[0, 0].item() == pytest.approx(0.8729, abs=1e-4)
    # Image 1 from its side: Phi((2 - 4) / sqrt(2)) of being better, and it is worse: p = 0.
    q = norm.cdf(-2 / math.sqrt(2 + 1e-6))
    assert reward[1, 0].item() == pytest.approx(1e-3 + math.sqrt(1 - q + 1e-6), abs=1e-9)


def test_constant_predictor_earns_the_root_of_one_half() -> None:
    reward = fidelity_reward(torch.full((4, 3), 2.5), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    # p_k = Phi(0) = 1/2 with every pair: sqrt(.5 + 1e-6) + sqrt(1e-6)
    torch.testing.assert_close(
        reward, torch.full((4, 3), math.sqrt(0.5 + 1e-6) + 1e-3), rtol=0, atol=1e-6
    )


def test_invalid_answers_enter_nothing() -> None:
    nan = math.nan
    mos = torch.tensor([1.0, 2.0, 3.0])
    scores = torch.tensor([[1.0, 2.0, nan], [2.0, 2.5, 3.0], [3.0, nan, 4.5]])
    reward = fidelity_reward(scores, mos)
    assert reward[0, 2] == 0
    assert reward[2, 1] == 0
    # Whatever stands in an invalid place changes nothing.
    valid = torch.isfinite(scores)
    filled = torch.where(valid, scores, torch.tensor(99.0))
    torch.testing.assert_close(fidelity_reward(filled, mos, valid), reward)
    # The statistics are those of the valid scores: mean 1.5 and variance .5 of image 0.
    statistics = score_statistics(scores)
    assert statistics.mean[0].item() == pytest.approx(1.5)
    assert statistics.variance[0].item() == pytest.approx(0.5)


def test_image_with_one_valid_answer_is_excluded() -> None:
    nan = math.nan
    mos = torch.tensor([1.0, 2.0, 3.0])
    scores = torch.tensor([[1.0, 2.0], [5.0, nan], [3.0, 4.0]])
    reward = fidelity_reward(scores, mos)
    assert reward[1].tolist() == [0.0, 0.0]
    # The others are compared as if image 1 were not there.
    pair = fidelity_reward(scores[[0, 2]], mos[[0, 2]])
    torch.testing.assert_close(reward[[0, 2]], pair)


def test_no_opponent_earns_nothing() -> None:
    assert fidelity_reward(torch.tensor([[1.0, 2.0]]), torch.tensor([3.0])).tolist() == [[0, 0]]


def test_variance_floor_and_fixed_variance() -> None:
    scores = torch.tensor([[2.0, 2.0], [3.0, 3.0]], dtype=torch.float64)
    statistics = score_statistics(scores)
    floor = comparison_probabilities(scores, statistics, variance_floor=0.5)
    # Both variances are raised from 0 to .5: Phi((3 - 2) / sqrt(1 + 1e-6))
    assert floor[1, 0, 0].item() == pytest.approx(norm.cdf(1 / math.sqrt(1 + 1e-6)), abs=1e-9)
    fixed = comparison_probabilities(scores, statistics, fixed_variance=1.0)
    assert fixed[1, 0, 0].item() == pytest.approx(norm.cdf(1 / math.sqrt(2 + 1e-6)), abs=1e-9)


def test_only_the_order_of_mos_counts() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = 1 + 4 * torch.rand(5, 4, generator=generator)
    mos = torch.tensor([1.0, 2.0, 2.0, 4.0, 5.0])
    torch.testing.assert_close(fidelity_reward(scores, mos), fidelity_reward(scores, mos**3 - 7))
