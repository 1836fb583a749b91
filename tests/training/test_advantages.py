from __future__ import annotations

import math

import pytest
import torch

from vqr1.training.advantages import (
    AdvantageInputs,
    ShiftFree,
    group_advantages,
    groups_with_variance,
)


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


def shift_free(rewards: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    valid = ~scores.isnan()
    return ShiftFree()(AdvantageInputs(rewards, {}, valid, torch.ones_like(valid).long(), scores))


def test_no_common_shift_by_hand() -> None:
    # Both images: centred rewards a = -1, 1; scores differ from their means by d = -.5, .5 and
    # -1.5, 1.5. b = (.5 + .5 + 1.5 + 1.5) / (.25 + .25 + 2.25 + 2.25) = .8; A = a - .8 d.
    rewards = torch.tensor([[0.0, 2.0], [1.0, 3.0]])
    scores = torch.tensor([[3.0, 4.0], [1.0, 4.0]])
    expected = torch.tensor([[-0.6, 0.6], [0.2, -0.2]])
    assert torch.allclose(shift_free(rewards, scores), expected, atol=1e-6)


def test_one_shift_of_all_scores_has_no_gradient() -> None:
    # Answers 1, 2, ..., 5 with logits of each image's own, plus b times the score for all: the
    # expected score of every image rises with b, and the gradient by b is 0. Those by the images'
    # own logits are not.
    generator = torch.Generator().manual_seed(0)
    values = torch.arange(1.0, 6.0)
    own = torch.randn(8, 5, generator=generator, requires_grad=True)
    shift = torch.zeros((), requires_grad=True)
    probabilities = (own + shift * values).log_softmax(dim=1)
    answers = torch.multinomial(
        probabilities.detach().exp(), 6, replacement=True, generator=generator
    )
    rewards = torch.rand(8, 6, generator=generator)

    def gradients(advantages: torch.Tensor) -> tuple[float, float]:
        loss = -(advantages * probabilities.gather(1, answers)).sum()
        by_own, by_shift = torch.autograd.grad(loss, (own, shift), retain_graph=True)
        return by_own.abs().max().item(), by_shift.item()

    centred = gradients(group_advantages(rewards, normalise_std=False))
    free = gradients(shift_free(rewards, values[answers]))
    assert abs(centred[1]) > 0.1
    assert free[1] == pytest.approx(0, abs=1e-5)
    assert free[0] > 0.1


def test_answers_without_a_score_move_nothing() -> None:
    rewards = torch.tensor([[0.0, 2.0, 1.0], [0.5, 0.5, 2.0]])
    nan = math.nan
    # One score an image: none differs from its mean.
    scores = torch.tensor([[nan, 3.0, nan], [nan, nan, nan]])
    centred = group_advantages(rewards, normalise_std=False)
    assert torch.equal(shift_free(rewards, scores), centred)
    # The invalid one keeps its own, the two scores share b = (1 x -.5 + 0 x .5) / .5 = -1.
    found = shift_free(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[3.0, 4.0, nan]]))
    assert torch.allclose(found, torch.tensor([[0.5, 0.5, -1.0]]), atol=1e-6)
