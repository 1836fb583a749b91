"""Every reward variant by hand-computed values, and what all of them owe invalid answers."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import norm

from tests.cli.test_configs import train_config
from vqr1.rewards import (
    BinaryReward,
    FidelityReward,
    LengthBonusReward,
    MarginReward,
    MseReward,
    ProbabilityReward,
    Reward,
    RewardInputs,
    ThresholdReward,
)
from vqr1.rewards.base import SMALLEST_CONSTANT
from vqr1.rewards.build import build_rewards

NAN = math.nan


def inputs(scores: list[list[float]], mos: list[float]) -> RewardInputs:
    values = torch.tensor(scores)
    valid = torch.isfinite(values)
    return RewardInputs(values, valid, valid, torch.tensor(mos))


# means: 2, 4, 3.5 (the invalid answer is in no mean); variances: 2, 0, .5
THREE = inputs([[1.0, 3.0, NAN], [4.0, 4.0, 4.0], [3.0, NAN, 4.0]], [1.5, 4.0, 4.0])


def test_binary() -> None:
    # image 0 is the worst: 1 < 4 and 1 < 3.5 both right; 3 < 4 and 3 < 3.5 both right
    # image 1: 4 > 2 right; equal MOS to image 2, but 4 != 3.5: wrong -> 1/2
    # image 2: 3 > 2 right, 3 != 4 wrong -> 1/2; 4 > 2 right, 4 = 4 right -> 1
    expected = torch.tensor([[1.0, 1.0, 0.0], [0.5, 0.5, 0.5], [0.5, 0.0, 1.0]])
    torch.testing.assert_close(BinaryReward()(THREE), expected)


def test_binary_gives_nothing_for_the_wrong_side() -> None:
    # means 1.5 and 4.5 against the MOS order: no response is on the right side
    reward = BinaryReward()(inputs([[1.0, 2.0], [4.0, 5.0]], [5.0, 1.0]))
    assert reward.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_probability() -> None:
    # response 0 of image 0, worse than both: 1 - Phi((1-4)/sqrt(2+0)), 1 - Phi((1-3.5)/sqrt(2.5))
    first = 1 - norm.cdf((1 - 4) / math.sqrt(2 + 1e-6))
    second = 1 - norm.cdf((1 - 3.5) / math.sqrt(2.5 + 1e-6))
    reward = ProbabilityReward()(THREE)
    assert reward[0, 0].item() == pytest.approx((first + second) / 2, abs=1e-6)
    # image 1 against image 0: Phi((4-2)/sqrt(2)); equal MOS to image 2: 1/2 whatever is stated
    above = norm.cdf((4 - 2) / math.sqrt(2 + 1e-6))
    assert reward[1, 0].item() == pytest.approx((above + 0.5) / 2, abs=1e-6)


def test_fixed_variance() -> None:
    # sigma^2 = 1 for both images: p = Phi((q - mu) / sqrt(2)), here (3 - 2)/sqrt(2 + 1e-6)
    pair = inputs([[3.0, 5.0], [2.0, 2.0]], [4.0, 1.0])
    p = norm.cdf((3 - 2) / math.sqrt(2 + 1e-6))
    reward = FidelityReward(fixed_variance=1.0)(pair)
    assert reward[0, 0].item() == pytest.approx(math.sqrt(p + 1e-6) + 1e-3, abs=1e-6)


def test_threshold() -> None:
    # |3.0-3.3| = .3 and |3.6-3.3| = .3 are below .35; |2.9-3.3| = .4 is not
    reward = ThresholdReward()(inputs([[3.0, 3.6, 2.9, NAN]], [3.3]))
    assert reward.tolist() == [[1.0, 1.0, 0.0, 0.0]]
    assert ThresholdReward(width=0.5)(inputs([[2.9]], [3.3])).tolist() == [[1.0]]


def test_thresholds_are_compared_in_decimals() -> None:
    # |3.35 - 3| and |4.35 - 4| are .35, and not below it, though in floating point both can be;
    # |3.34 - 3| is. Of .5 both ways: 2.5 and 3.5 against 3 are inside where .5 itself counts.
    strict = ThresholdReward()(inputs([[3.35, 3.34, 2.65, 2.66]], [3.0]))
    assert strict.tolist() == [[0.0, 1.0, 0.0, 1.0]]
    assert ThresholdReward()(inputs([[4.35, 3.65, 4.349]], [4.0])).tolist() == [[0.0, 0.0, 1.0]]
    inclusive = ThresholdReward(width=0.3, inclusive=True)
    # In float32 and float64 4.1 - 3.8 is above .3.
    assert inclusive(inputs([[4.1, 3.5, 4.11]], [3.8])).tolist() == [[1.0, 1.0, 0.0]]


def test_length_bonus_of_vq_insight() -> None:
    # On [0, 4]: scores 3, 2.9, 1, MOS 3: 1 - e / MOS = 1, .967, .333, all above .1; of their
    # lengths 320 and 512 are allowed.
    yes = torch.ones(2, 4, dtype=torch.bool)
    found = LengthBonusReward()(
        RewardInputs(
            torch.tensor([[4.0, 3.9, 2.0, 4.0], [4.0, 1.2, 1.2, NAN]]),
            torch.tensor([[True] * 4, [True] * 3 + [False]]), yes, torch.tensor([4.0, 4.0]),
            lengths=torch.tensor([[320, 512, 513, 319], [400, 400, 400, 400]]),
        )
    )  # fmt: skip
    # Image 1: only one response is right (.2 / 3 = .067 is not above .1), so that none has it.
    assert found.tolist() == [[1.0, 1.0, 0.0, 0.0], [0.0] * 4]
    terms = build_rewards(train_config("reward=vq_insight").reward).weights
    assert terms == {"closeness": 1.0, "length": 0.2, "format": 1.0}


def test_margin_of_fixed_width() -> None:
    # means 2 and 4; MOS margin 1 - 3 = -2
    # image 0: dq = 1-4 = -3, error -1 -> exp(-1/2); dq = 3-4 = -1, error 1 -> exp(-1/2)
    # image 1: dq = 4-2 = 2, error 0 -> 1
    reward = MarginReward()(inputs([[1.0, 3.0], [4.0, 4.0]], [1.0, 3.0]))
    half = math.exp(-0.5)
    torch.testing.assert_close(reward, torch.tensor([[half, half], [1.0, 1.0]]))
    # width 2: exp(-1/2 * 1/4)
    wide = MarginReward(width=2.0)(inputs([[1.0, 3.0], [4.0, 4.0]], [1.0, 3.0]))
    assert wide[0, 0].item() == pytest.approx(math.exp(-0.125), abs=1e-6)


def test_margin_of_own_width() -> None:
    # variances 2 and 0: exp(-1/2 * 1 / (2 + 0 + 1e-6))
    reward = MarginReward(width=None)(inputs([[1.0, 3.0], [4.0, 4.0]], [1.0, 3.0]))
    assert reward[0, 0].item() == pytest.approx(math.exp(-0.25), abs=1e-6)


VARIANTS: list[Reward] = [
    FidelityReward(), BinaryReward(), ProbabilityReward(), FidelityReward(fixed_variance=1.0),
    MseReward(), ThresholdReward(), MarginReward(), MarginReward(width=None),
]  # fmt: skip


@pytest.mark.parametrize("reward", VARIANTS, ids=lambda r: type(r).__name__)
def test_invalid_answers_gain_nothing_and_change_nobody(reward: Reward) -> None:
    mos = [1.5, 4.0, 3.0]
    scores = torch.tensor([[1.0, 3.0, NAN], [4.0, 4.5, 4.0], [3.0, NAN, 3.2]])
    valid = torch.isfinite(scores)
    as_nan = reward(RewardInputs(scores, valid, valid, torch.tensor(mos)))
    assert torch.isfinite(as_nan).all()
    # Whatever number stands in an invalid place, nobody's reward moves.
    as_number = reward(
        RewardInputs(torch.where(valid, scores, 99.0), valid, valid, torch.tensor(mos))
    )
    torch.testing.assert_close(as_nan, as_number)
    # No valid answer of any image earns less than an invalid one.
    assert as_nan[~valid].max() <= as_nan[valid].min()


def test_an_image_without_two_scores_is_no_opponent() -> None:
    # image 1 has one valid score: no distribution; image 0 is compared with image 2 only
    scores = [[1.0, 2.0], [5.0, NAN], [4.0, 4.0]]
    # A fixed width needs no distribution: MR-IQA compares with an image of one answer too.
    alone = MarginReward()(inputs(scores, [1.0, 3.0, 4.0]))
    assert alone[1, 0] > 0
    for reward in (BinaryReward(), ProbabilityReward(), MarginReward(width=None)):
        with_it = reward(inputs(scores, [1.0, 3.0, 4.0]))
        without = reward(inputs([scores[0], scores[2]], [1.0, 4.0]))
        torch.testing.assert_close(with_it[0], without[0])
        assert with_it[1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("build", "printed"),
    [
        (lambda: ThresholdReward(width=0.0), "width=0.0"),
        (lambda: MarginReward(width=-1.0), "width=-1.0"),
        (lambda: MarginReward(gamma=0.0), "gamma=0.0"),
        (lambda: ProbabilityReward(gamma=0.0), "gamma=0.0"),
    ],
)
def test_constants_out_of_range(build: object, printed: str) -> None:
    assert callable(build)
    with pytest.raises(ValueError, match=printed):
        build()


@pytest.mark.parametrize(
    "reward",
    [BinaryReward(), FidelityReward(), MarginReward(), MarginReward(width=None),
     ProbabilityReward()],
    ids=lambda r: type(r).__name__,
)  # fmt: skip
def test_an_image_is_not_compared_with_its_own_copy(reward: Reward) -> None:
    # Rows 0 and 2 are one image. To it only row 1 is an opponent, so both earn what the pair
    # (0, 1) gives alone; row 1 meets twice the same opponent, whose mean reward is the pair's too.
    scores = torch.tensor([[1.0, 3.0], [4.0, 2.5], [1.0, 3.0]])
    mos = torch.tensor([1.5, 4.0, 1.5])
    valid = torch.ones(3, 2, dtype=torch.bool)
    rows = torch.tensor([7, 3, 7])
    found = reward(RewardInputs(scores, valid, valid, mos, rows))
    pair = reward(RewardInputs(scores[:2], valid[:2], valid[:2], mos[:2]))
    torch.testing.assert_close(found, torch.stack([pair[0], pair[1], pair[0]]))
    # Copies alone earn nothing: there is no opponent.
    twice = RewardInputs(scores[[0, 2]], valid[:2], valid[:2], mos[[0, 2]], rows[[0, 2]])
    assert reward(twice).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_the_smallest_constants_still_give_numbers() -> None:
    # Equal scores: differences and variances are 0, and only the constant is left to divide by.
    equal = inputs([[3.0, 3.0], [3.0, 3.0]], [2.0, 2.0])
    least = SMALLEST_CONSTANT
    for reward in (
        FidelityReward(gamma=least), FidelityReward(gamma=least, fixed_variance=least),
        ProbabilityReward(gamma=least), MarginReward(width=None, gamma=least),
        MarginReward(width=least**0.5),
    ):  # fmt: skip
        assert torch.isfinite(reward(equal)).all()
