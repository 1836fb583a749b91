from __future__ import annotations

import math

import pytest
import torch

from vqr1.training.loss import grpo_loss, k3_kl, token_weights

# B=2 images, K=2 responses, C=3 tokens; lengths 3, 1 and 2, 0 (an empty response)
MASK = torch.tensor([[[1, 1, 1], [1, 0, 0]], [[1, 1, 0], [0, 0, 0]]], dtype=torch.bool)
ALL = torch.tensor([True, True])


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


def test_groups_left_out_weigh_nothing_and_raise_nobody_else() -> None:
    weights = token_weights(MASK, torch.tensor([True, False]), "response_mean", 8)
    assert weights[1].sum() == 0
    assert weights[0].sum().item() == pytest.approx(2 / 3)


def test_k3_by_hand() -> None:
    # ref - lp = .5: exp(.5) - .5 - 1 = .14872
    value = k3_kl(torch.tensor([-1.0]), torch.tensor([-0.5]))
    assert value.item() == pytest.approx(math.exp(0.5) - 1.5, abs=1e-6)
    assert k3_kl(torch.tensor([-2.0]), torch.tensor([-2.0])).item() == 0


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


def test_parts_add_up_and_padding_may_hold_anything() -> None:
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
