from __future__ import annotations

import math

import pytest
import torch

from vqr1.records import LossOutput
from vqr1.training.losses import GrpoLoss, LossInputs
from vqr1.training.losses.averaging import token_weights
from vqr1.training.losses.falling import falling_share
from vqr1.training.losses.kl import EXP_LIMIT, bounded_exp, k3_kl

# B=2 images, K=2 responses, C=3 tokens; lengths 3, 1 and 2, 0 (an empty response)
MASK = torch.tensor([[[1, 1, 1], [1, 0, 0]], [[1, 1, 0], [0, 0, 0]]], dtype=torch.bool)
ALL = torch.tensor([True, True])


def grpo_loss(
    logprobs: torch.Tensor,
    old: torch.Tensor,
    reference: torch.Tensor | None,
    advantages: torch.Tensor,
    weights: torch.Tensor,
    *,
    kl_weight: float,
    clip: float,
    kl_share: float = 1.0,
) -> LossOutput:
    mask = weights > 0
    lengths = mask.sum(dim=2)
    inputs = LossInputs(
        logprobs, old, None, reference, mask, advantages, weights, None, lengths, kl_share=kl_share
    )
    return GrpoLoss(kl_weight=kl_weight, clip=clip)(inputs)


def test_weights_of_each_averaging_rule() -> None:
    # Three responses hold tokens: each weighs 1/3, split over its tokens.
    weights = token_weights(MASK, ALL, "response_mean", 8)
    assert weights[0, 0].tolist() == pytest.approx([1 / 9] * 3)
    assert weights[0, 1].tolist() == pytest.approx([1 / 3, 0, 0])
    assert weights[1, 0].tolist() == pytest.approx([1 / 6, 1 / 6, 0])
    assert weights[1, 1].tolist() == [0, 0, 0]
    # Six tokens in all.
    assert token_weights(MASK, ALL, "token_mean", 8)[MASK].tolist() == pytest.approx([1 / 6] * 6)
    # 1 / (3 responses x limit of 8 tokens)
    assert token_weights(MASK, ALL, "dr_grpo", 8)[MASK].tolist() == pytest.approx([1 / 24] * 6)
    # 1 / 3 responses, whatever their lengths.
    assert token_weights(MASK, ALL, "response_sum", 8)[MASK].tolist() == pytest.approx([1 / 3] * 6)


def test_groups_excluded_weigh_nothing_and_raise_nobody_else() -> None:
    weights = token_weights(MASK, torch.tensor([True, False]), "response_mean", 8)
    assert weights[1].sum() == 0
    assert weights[0].sum().item() == pytest.approx(2 / 3)


def test_k3_by_hand() -> None:
    # ref - lp = .5: exp(.5) - .5 - 1 = .14872
    value = k3_kl(torch.tensor([-1.0]), torch.tensor([-0.5]))
    assert value.item() == pytest.approx(math.exp(0.5) - 1.5, abs=1e-6)
    assert k3_kl(torch.tensor([-2.0]), torch.tensor([-2.0])).item() == 0


def test_a_weight_falls_by_a_cosine() -> None:
    # (1 + cos(pi s / 4)) / 2 of 8 steps until their half
    expected = [1.0, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4, 0.0, 0.0]
    assert [falling_share(step, 8, 0.5) for step in range(6)] == pytest.approx(expected)
    assert falling_share(7, 8, None) == 1.0


def test_a_share_of_the_kl_weight() -> None:
    # As test_loss_by_hand, whose KL of .018731 counts half: beta .1 x .5
    one = torch.tensor([[[-1.0]]])
    out = grpo_loss(
        one, one - 0.5, one - 0.2, torch.tensor([[2.0]]), torch.ones(1, 1, 1), kl_weight=0.1,
        clip=0.2, kl_share=0.5,
    )  # fmt: skip
    assert out.loss.item() == pytest.approx(-2.4 + 0.05 * (math.exp(-0.2) - 0.8), abs=1e-6)
    assert out.kl.item() == pytest.approx(math.exp(-0.2) - 0.8, abs=1e-6)


def test_loss_by_hand() -> None:
    # One response of one token: logprob -1, old -1.5, reference -1.2, advantage 2
    # ratio exp(.5) = 1.6487, clipped to 1.2; policy loss -min(3.297, 2.4) = -2.4
    # k3: ref - lp = -.2: exp(-.2) + .2 - 1 = .018731; beta .1: loss = -2.4 + .0018731
    out = grpo_loss(
        torch.tensor([[[-1.0]]], requires_grad=True),
        torch.tensor([[[-1.5]]]),
        torch.tensor([[[-1.2]]]),
        torch.tensor([[2.0]]),
        torch.ones(1, 1, 1),
        kl_weight=0.1,
        clip=0.2,
    )
    assert out.policy_loss.item() == pytest.approx(-2.4, abs=1e-6)
    assert out.kl.item() == pytest.approx(math.exp(-0.2) - 0.8, abs=1e-6)
    assert out.loss.item() == pytest.approx(-2.4 + 0.1 * (math.exp(-0.2) - 0.8), abs=1e-6)
    assert out.clip_fraction.item() == 1.0


def test_on_policy_gradient_is_minus_the_weighted_advantage() -> None:
    # At ratio 1 and without KL, d loss / d logprob_t = -w_t A.
    generator = torch.Generator().manual_seed(1)
    logprobs = (-torch.rand(2, 2, 3, generator=generator)).requires_grad_()
    advantages = torch.tensor([[1.0, -1.0], [0.5, -0.5]])
    weights = token_weights(MASK, ALL, "response_mean", 8)
    out = grpo_loss(logprobs, logprobs.detach(), None, advantages, weights, kl_weight=0.0, clip=0.2)
    out.loss.backward()
    torch.testing.assert_close(logprobs.grad, -weights * advantages[:, :, None])


def test_splits_add_up_and_padding_may_hold_anything() -> None:
    generator = torch.Generator().manual_seed(2)
    shape = (2, 2, 3)
    logprobs = -torch.rand(shape, generator=generator)
    old = -torch.rand(shape, generator=generator)
    reference = -torch.rand(shape, generator=generator)
    reference[~MASK] = math.nan
    old[~MASK] = math.inf
    advantages = torch.tensor([[1.0, -1.0], [0.5, -0.5]])
    weights = token_weights(MASK, ALL, "token_mean", 8)

    def loss(rows: slice) -> float:
        return grpo_loss(
            logprobs[rows],
            old[rows],
            reference[rows],
            advantages[rows],
            weights[rows],
            kl_weight=0.04,
            clip=0.2,
        ).loss.item()

    assert math.isfinite(loss(slice(None)))
    assert loss(slice(0, 1)) + loss(slice(1, 2)) == pytest.approx(loss(slice(None)), abs=1e-6)


def plain_formulas(
    logprobs: torch.Tensor, old: torch.Tensor, reference: torch.Tensor, advantages: torch.Tensor
) -> torch.Tensor:
    """The formulas of the module header, exp without a bound; weights 1, beta .04, clip .2."""
    ratio = (logprobs - old).exp()
    advantage = advantages[:, :, None]
    policy = -torch.minimum(ratio * advantage, ratio.clamp(1.0 - 0.2, 1.0 + 0.2) * advantage).sum()
    difference = reference - logprobs
    return policy + 0.04 * (difference.exp() - difference - 1.0).sum()


def test_the_bound_changes_no_bit_below_it() -> None:
    generator = torch.Generator().manual_seed(5)
    shape = (3, 4, 50)

    def near(values: torch.Tensor, width: float) -> torch.Tensor:
        return values + width * (2 * torch.rand(shape, generator=generator) - 1)

    logprobs = -5 * torch.rand(shape, generator=generator)
    # Differences of up to 19.9, most of them small; one stands at the limit itself.
    old = near(logprobs, 19.9)
    reference = near(logprobs, 2.0)
    reference[0, 0, 0] = logprobs[0, 0, 0] + EXP_LIMIT
    advantages = torch.randn(3, 4, generator=generator)
    results = []
    for bounded in (True, False):
        values = logprobs.clone().requires_grad_()
        if bounded:
            loss = grpo_loss(
                values, old, reference, advantages, torch.ones(shape), kl_weight=0.04, clip=0.2
            ).loss
        else:
            loss = plain_formulas(values, old, reference, advantages)
        loss.backward()
        results.append((loss.detach(), values.grad))
    assert results[0][0].equal(results[1][0])
    assert results[0][1].equal(results[1][1])


def test_k3_above_the_limit_is_its_tangent() -> None:
    logprobs = torch.tensor([-101.0, -1000.0], requires_grad=True)
    value = k3_kl(logprobs, torch.tensor([-1.0, -1.0]))
    # Differences 100 and 999; e^20 (1 + d - 20) - d - 1: 81 e^20 - 101 and 980 e^20 - 1000.
    e20 = math.exp(20)
    assert value.tolist() == pytest.approx([81 * e20 - 101, 980 * e20 - 1000], rel=1e-6)
    value.sum().backward()
    # d/dlogprob = -(e^20 - 1) in both.
    assert logprobs.grad.tolist() == pytest.approx([1 - e20, 1 - e20], rel=1e-6)
    # Without the bound: exp(100) is beyond float32.
    assert math.isinf(torch.tensor(100.0).exp().item())


@pytest.mark.parametrize(
    ("advantage", "expected", "slope"),
    [
        # Clipped to 1.2, which no longer moves: loss -1.2 A.
        (1.0, -1.2, 0.0),
        # 0 times the ratio is 0, and not NaN.
        (0.0, 0.0, 0.0),
        # Not clipped: -A e^20 (1 + 100 - 20) = 81 e^20, and its slope e^20.
        (-1.0, 81 * math.exp(20), math.exp(20)),
    ],
)
def test_a_ratio_beyond_float32(advantage: float, expected: float, slope: float) -> None:
    logprobs = torch.tensor([[[-1.0]]], requires_grad=True)
    out = grpo_loss(
        logprobs, torch.tensor([[[-101.0]]]), None, torch.tensor([[advantage]]),
        torch.ones(1, 1, 1), kl_weight=0.0, clip=0.2,
    )  # fmt: skip
    out.loss.backward()
    assert out.loss.item() == pytest.approx(expected, rel=1e-6)
    assert logprobs.grad.item() == pytest.approx(slope, rel=1e-6)


def test_numbers_that_are_none_stay_none() -> None:
    # A NaN must reach the gradient, whose update is then skipped, and not be bounded away.
    assert bounded_exp(torch.tensor([math.nan])).isnan().all()
    assert bounded_exp(torch.tensor([-math.inf])).tolist() == [0.0]
