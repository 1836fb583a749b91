from __future__ import annotations

import math

import pytest
import torch

from vqr1.records import Rollout
from vqr1.rewards import BinaryReward, FormatReward, MseReward, WeightedRewards
from vqr1.training.scored_rollout import score_rollout


def rollout(texts: list[list[str]], lengths: list[list[int]], limit: int) -> Rollout:
    mask = torch.arange(limit) < torch.tensor(lengths)[:, :, None]
    finished = torch.tensor(lengths) < limit
    return Rollout(torch.zeros_like(mask, dtype=torch.int64), mask, texts, finished)


TEXTS = [
    ["<think>a</think><answer>2.0</answer>", "<think>a</think><answer>4.0</answer>"],
    ["<answer>3.0</answer>", "nonsense"],
    ["<think>a</think><answer>1</answer>"] * 2,
]
REWARDS = WeightedRewards({"mse": (1.0, MseReward()), "format": (2.0, FormatReward())})


def test_scores_rewards_and_signal() -> None:
    scored, _ = score_rollout(
        rollout(TEXTS, [[3, 4], [2, 5], [1, 1]], 5),
        torch.tensor([3.0, 3.0, 1.0]),
        REWARDS,
        answer_format="think_answer",
    )
    assert scored.scores[0].tolist() == [2.0, 4.0]
    assert math.isnan(scored.scores[1, 1])
    assert scored.valid.tolist() == [[True, True], [True, False], [True, True]]
    # image 0: -(2-3)^2 + 2 = 1 and -(4-3)^2 + 2 = 1: no signal; image 1: 0 + 0 and -16 + 0;
    # image 2: 0 + 2 twice
    assert scored.rewards.tolist() == [[1.0, 1.0], [0.0, -16.0], [2.0, 2.0]]
    assert scored.has_signal.tolist() == [False, True, False]
    assert scored.advantages[0].tolist() == [0.0, 0.0]
    # centred +8 and -8 over the unbiased std sqrt((64 + 64) / 1) = 11.3137
    assert scored.advantages[1, 0].item() == pytest.approx(8 / (math.sqrt(128) + 1e-4), abs=1e-6)


def test_metrics_and_their_denominators() -> None:
    _, metrics = score_rollout(
        rollout(TEXTS, [[3, 4], [2, 5], [1, 1]], 5),
        torch.tensor([3.0, 3.0, 1.0]),
        REWARDS,
        answer_format="think_answer",
    )
    assert metrics["invalid_rate"] == pytest.approx(1 / 6)
    assert metrics["well_formed_rate"] == pytest.approx(4 / 6)
    assert metrics["truncated_rate"] == pytest.approx(1 / 6)
    assert metrics["zero_signal_rate"] == pytest.approx(2 / 3)
    assert metrics["response_length"] == pytest.approx((3 + 4 + 2 + 5 + 1 + 1) / 6)
    assert metrics["score_mean"] == pytest.approx((2 + 4 + 3 + 1 + 1) / 5)
    # Groups with two valid scores: 2, 4 -> sqrt(2); 1, 1 -> 0
    assert metrics["score_std"] == pytest.approx(math.sqrt(2) / 2)
    assert metrics["reward/format"] == pytest.approx(4 / 6)
    assert metrics["reward/mse"] == pytest.approx((-1 - 1 + 0 - 16 + 0 + 0) / 6)


def test_no_valid_answer_at_all() -> None:
    _, metrics = score_rollout(
        rollout([["x", "y"]], [[1, 1]], 3), torch.tensor([3.0]), REWARDS,
        answer_format="think_answer",
    )  # fmt: skip
    assert metrics["invalid_rate"] == 1.0
    assert "score_std" not in metrics
    assert "score_mean" not in metrics


def test_copies_of_an_image_are_known_by_their_row() -> None:
    texts = [[f"<think>a</think><answer>{score}</answer>" for score in scores]
             for scores in ((1.0, 3.0), (4.0, 2.5), (1.0, 3.0))]  # fmt: skip
    answers = rollout(texts, [[1, 1]] * 3, 2)
    mos = torch.tensor([1.5, 4.0, 1.5])
    rewards = WeightedRewards({"binary": (1.0, BinaryReward())})

    def earned(rows: torch.Tensor | None) -> list[list[float]]:
        scored, _ = score_rollout(answers, mos, rewards, answer_format="think_answer", images=rows)
        return scored.rewards.tolist()

    # Means 2, 3.25, 2. Row 0 against row 1: 1 < 3.25 and 3 < 3.25, both right. Against its copy of
    # equal MOS, 1 and 3 are not equal to 2: wrong, so that the mean would be 1/2. Row 1 against
    # both: 4 > 2 and 2.5 > 2.
    assert earned(torch.tensor([9, 2**24 - 1, 9])) == [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
    assert earned(None) == [[0.5, 0.5], [1.0, 1.0], [0.5, 0.5]]
