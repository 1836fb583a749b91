from __future__ import annotations

import math

import pytest
import torch

from vqr1.training.importance_sampling import importance_weights, mismatch_metrics
from vqr1.training.losses import GrpoLoss, LossInputs

# log-ratios p/q: log 2, log 4, log .5, and a token outside of the mask
TRAINER = torch.tensor([[[-1.0, -1.0, -2.0, -9.0]]])
ENGINE = TRAINER - torch.tensor([[[math.log(2), math.log(4), math.log(0.5), 5.0]]])
MASK = torch.tensor([[[True, True, True, False]]])


def test_weights_are_the_ratios_cut_at_the_cap() -> None:
    trainer = TRAINER.clone().requires_grad_()
    weights = importance_weights(trainer, ENGINE, 3.0)
    assert weights[MASK].tolist() == pytest.approx([2.0, 3.0, 0.5])
    assert not weights.requires_grad


def test_metrics_by_hand() -> None:
    metrics = mismatch_metrics(TRAINER, ENGINE, MASK, 3.0)
    # k3 with r = p/q: r - 1 - log r
    k3 = [2 - 1 - math.log(2), 4 - 1 - math.log(4), 0.5 - 1 - math.log(0.5)]
    assert metrics["mismatch/kl"] == pytest.approx(sum(k3) / 3, abs=1e-6)
    gap = (math.log(2) + math.log(4) + math.log(2)) / 3
    assert metrics["mismatch/logprob_gap"] == pytest.approx(gap, abs=1e-6)
    assert metrics["mismatch/capped_rate"] == pytest.approx(1 / 3)
    assert "mismatch/capped_rate" not in mismatch_metrics(TRAINER, ENGINE, MASK, None)
    assert mismatch_metrics(TRAINER, ENGINE, torch.zeros_like(MASK), 3.0) == {}


def test_weighted_draws_from_the_engine_give_the_trainers_gradient() -> None:
    """E_q[(p / q) A grad log p] = E_p[A grad log p]: by enumeration, without any noise."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, generator=generator, dtype=torch.float64).requires_grad_()
    engine = torch.randn(6, generator=generator, dtype=torch.float64).log_softmax(0)
    advantages = torch.randn(6, generator=generator, dtype=torch.float64)

    def gradient(drawn_from: torch.Tensor, corrected: bool) -> torch.Tensor:
        """Every token is one response, weighted with the probability of drawing it."""
        logprobs = logits.log_softmax(0)[:, None, None]
        before = logprobs.detach()
        weights = drawn_from[:, None, None]
        found = importance_weights(before, engine[:, None, None], 1e6) if corrected else None
        mask = weights > 0
        loss = GrpoLoss()(
            LossInputs(
                logprobs, before, None, None, mask, advantages[:, None], weights, found,
                mask.sum(dim=2),
            )
        ).loss  # fmt: skip
        return torch.autograd.grad(loss, logits)[0]

    on_policy = gradient(logits.detach().softmax(0), corrected=False)
    torch.testing.assert_close(gradient(engine.exp(), corrected=True), on_policy)
    assert not torch.allclose(gradient(engine.exp(), corrected=False), on_policy, atol=1e-2)


def test_the_kl_term_is_not_weighted() -> None:
    def loss(importance: torch.Tensor | None) -> float:
        return GrpoLoss(kl_weight=1.0)(
            LossInputs(
                TRAINER, TRAINER, None, TRAINER - 0.5, MASK, torch.zeros(1, 1), MASK.float(),
                importance, MASK.sum(dim=2),
            )
        ).loss.item()  # fmt: skip

    assert loss(torch.full_like(TRAINER, 7.0)) == loss(None) != 0


def test_log_ratios_beyond_float32() -> None:
    # An engine that gives a sampled token e^-200 of the trainer's probability, and the reverse.
    trainer, engine = torch.tensor([[[-1.0, -201.0]]]), torch.tensor([[[-201.0, -1.0]]])
    assert importance_weights(trainer, engine, 3.0)[0, 0].tolist() == [3.0, 0.0]
    metrics = mismatch_metrics(trainer, engine, torch.ones(1, 1, 2, dtype=torch.bool), 3.0)
    # k3 of log-ratio 200 by the tangent at 20: e^20 (1 + 200 - 20) - 200 - 1; of -200: 200 - 1.
    first = math.exp(20) * 181 - 201
    assert metrics["mismatch/kl"] == pytest.approx((first + 199) / 2, rel=1e-6)
