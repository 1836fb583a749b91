from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from vqr1.errors import RunFaultError
from vqr1.iqa.answers import PUBLISHED, TaggedAnswer
from vqr1.records import Rollout
from vqr1.rewards import BinaryReward, FormatReward, MseReward, RewardInputs, WeightedRewards
from vqr1.training.group_answers import GroupAnswers, reward_inputs
from vqr1.training.scored_rollout import pools_of, score_rollout


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
        answer=PUBLISHED,
    )
    assert scored.scores[0].tolist() == [2.0, 4.0]
    assert math.isnan(scored.scores[1, 1])
    assert scored.valid.tolist() == [[True, True], [True, False], [True, True]]
    # image 0: -(2-3)^2 + 2 = 1 and -(4-3)^2 + 2 = 1: zero variance; image 1: 0 + 0 and -16 + 0;
    # image 2: 0 + 2 twice
    assert scored.rewards.tolist() == [[1.0, 1.0], [0.0, -16.0], [2.0, 2.0]]
    assert scored.has_variance.tolist() == [False, True, False]
    assert scored.advantages[0].tolist() == [0.0, 0.0]
    # centred +8 and -8 over the unbiased std sqrt((64 + 64) / 1) = 11.3137
    assert scored.advantages[1, 0].item() == pytest.approx(8 / (math.sqrt(128) + 1e-4), abs=1e-6)


def test_metrics_and_their_denominators() -> None:
    _, metrics = score_rollout(
        rollout(TEXTS, [[3, 4], [2, 5], [1, 1]], 5),
        torch.tensor([3.0, 3.0, 1.0]),
        REWARDS,
        answer=PUBLISHED,
    )
    assert metrics["invalid_rate"] == pytest.approx(1 / 6)
    assert metrics["format_compliance_rate"] == pytest.approx(4 / 6)
    assert metrics["truncated_rate"] == pytest.approx(1 / 6)
    assert metrics["zero_variance_rate"] == pytest.approx(2 / 3)
    assert metrics["response_length"] == pytest.approx((3 + 4 + 2 + 5 + 1 + 1) / 6)
    assert metrics["score_mean"] == pytest.approx((2 + 4 + 3 + 1 + 1) / 5)
    # Groups with two valid scores: 2, 4 -> sqrt(2); 1, 1 -> 0
    assert metrics["score_std"] == pytest.approx(math.sqrt(2) / 2)
    assert metrics["reward/format"] == pytest.approx(4 / 6)
    assert metrics["reward/mse"] == pytest.approx((-1 - 1 + 0 - 16 + 0 + 0) / 6)


def test_no_valid_answer_at_all() -> None:
    _, metrics = score_rollout(
        rollout([["x", "y"]], [[1, 1]], 3), torch.tensor([3.0]), REWARDS,
        answer=PUBLISHED,
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
        scored, _ = score_rollout(answers, mos, rewards, answer=PUBLISHED, images=rows)
        return scored.rewards.tolist()

    # Means 2, 3.25, 2. Row 0 against row 1: 1 < 3.25 and 3 < 3.25, both right. Against its copy of
    # equal MOS, 1 and 3 are not equal to 2: wrong, so that the mean would be 1/2. Row 1 against
    # both: 4 > 2 and 2.5 > 2.
    assert earned(torch.tensor([9, 2**24 - 1, 9])) == [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
    assert earned(None) == [[0.5, 0.5], [1.0, 1.0], [0.5, 0.5]]


# Two images, MOS 3 and 4; as text, scores on 0 to 100. 50 is 3 on [1, 5], 75 is 4, 0 is 1.
HUNDRED = [
    ["<think>a</think><answer>50</answer>", "<think>a</think><answer>0</answer>"],
    ["<think>a</think><answer>75</answer>", "nonsense"],
]


@pytest.mark.parametrize("published", [False, True])
def test_rewards_on_another_scale(published: bool) -> None:
    mos = torch.tensor([50.0, 75.0] if published else [3.0, 4.0])
    scored, metrics = score_rollout(
        rollout(HUNDRED, [[2, 2], [2, 2]], 3),
        mos,
        WeightedRewards({"mse": (1.0, MseReward())}),
        answer=TaggedAnswer(reasoning="think", score_range=(0.0, 100.0)),
        mos_range=(0.0, 100.0) if published else (1.0, 5.0),
    )
    # 0 and -(1 - 3)^2; 0 and the worst of an answer without a score
    assert scored.rewards.tolist() == [[0.0, -4.0], [0.0, -16.0]]
    # Scores are reported as they were given.
    assert scored.scores[0].tolist() == [50.0, 0.0]
    assert metrics["score_mean"] == pytest.approx((50 + 0 + 75) / 3)


class AboveThePool:
    """Each score less the mean MOS of its pool: shows who was compared with whom."""

    ranks = True

    def __call__(self, inputs: RewardInputs) -> torch.Tensor:
        return torch.nan_to_num(inputs.scores) - inputs.mos.mean()


def pool_rewards(world: int, pool: Any) -> torch.Tensor:
    """Rewards [8, 2] of the same eight images, dealt to so many processes in sampler order."""
    scores = torch.arange(16, dtype=torch.float32).reshape(8, 2) / 4 + 1
    whole = GroupAnswers(
        scores, scores > 0, scores > 0, scores.long(),
        torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 1.5, 2.5, 3.5]), torch.zeros(8).long(),
        torch.arange(8), torch.full((8,), math.nan), torch.full((8,), -1),
    )  # fmt: skip
    ranks = list(whole.table().split(8 // world))
    rewards = WeightedRewards({"own": (1.0, AboveThePool())})
    pools = [whole.from_table(table) for table in pools_of(ranks, pool)]
    return torch.cat([rewards(reward_inputs(answers))[0] for answers in pools])


@pytest.mark.parametrize("pool", [2, 4, 8, "global"])
def test_pools_do_not_depend_on_the_number_of_processes(pool: Any) -> None:
    alone = pool_rewards(1, pool)
    for world in (2, 4, 8):
        assert pool_rewards(world, pool).equal(alone), world


def test_pools_by_hand() -> None:
    # N = 4 of eight images: MOS 1, 2, 3, 4 (mean 2.5) and 5, 1.5, 2.5, 3.5 (mean 3.125).
    # First scores 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5.
    first = pool_rewards(2, 4)[:, 0]
    assert first.tolist() == [-1.5, -1.0, -0.5, 0.0, -0.125, 0.375, 0.875, 1.375]
    # With the images of each of two processes that is the same, with those of four it is not.
    assert pool_rewards(2, "rank").equal(pool_rewards(1, 4))
    assert not pool_rewards(4, "rank").equal(pool_rewards(1, 4))
    assert pool_rewards(4, 8).equal(pool_rewards(1, "global"))


def test_a_single_image_left_over_joins_the_pool_before_it() -> None:
    # Eight images in pools of 7: alone, the last would earn its score less its own MOS, 4.5 - 3.5.
    assert pool_rewards(1, 7).equal(pool_rewards(1, "global"))
    # Pools of 5 leave three, MOS 1.5, 2.5, 3.5 (mean 2.5), first scores 3.5, 4, 4.5.
    assert pool_rewards(1, 5)[5:, 0].tolist() == [1.0, 1.5, 2.0]


def test_zero_variance_by_cause() -> None:
    texts = [
        ["nonsense", "nonsense"],
        ["<think>a</think><answer>2</answer>"] * 2,
        # Errors 4 and 4.4 are both clipped at the worst error, 16 = 4 squared.
        ["<think>a</think><answer>5</answer>", "<think>a</think><answer>5.4</answer>"],
        ["<think>a</think><answer>5</answer>", "<think>a</think><answer>1</answer>"],
    ]
    _, metrics = score_rollout(
        rollout(texts, [[2, 2]] * 4, 3), torch.tensor([1.0, 1.0, 1.0, 2.0]), REWARDS,
        answer=PUBLISHED,
    )  # fmt: skip
    assert metrics["zero_variance_rate"] == 0.75
    assert [metrics[f"zero_variance/{name}"] for name in ("no_score", "equal_scores")] == [0.25] * 2
    assert metrics["zero_variance/equal_rewards"] == 0.25


def test_a_reward_that_is_no_number_is_named() -> None:
    class Broken(MseReward):
        def __call__(self, inputs: RewardInputs) -> torch.Tensor:
            # What is forgotten most easily: an unreadable answer has no score.
            return -((inputs.scores - inputs.mos[:, None]) ** 2)

    with pytest.raises(RunFaultError, match="own: gave nan for response 1 of image 1"):
        score_rollout(
            rollout(TEXTS, [[1, 1]] * 3, 3), torch.tensor([3.0, 3.0, 1.0]),
            WeightedRewards({"own": (1.0, Broken())}), answer=PUBLISHED,
        )  # fmt: skip
