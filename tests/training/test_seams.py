"""A loss and an advantage rule from a folder of the user's: one class and one YAML file each."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.test_configs import train_config
from tests.support.plain_logprobs import plain_logprobs
from tests.support.tiny_models import tiny_model
from tests.training.test_grpo import PatternReward, fit, make_module, ranking_batch
from vqr1.errors import ConfigError, RunFaultError
from vqr1.training.advantages import build_advantage
from vqr1.training.advantages.base import checked_advantages
from vqr1.training.losses import GrpoLoss, LossInputs, build_loss

CLASSES = """
import torch
from vqr1.records import LossOutput
from vqr1.training.losses import PolicyLoss

class Reinforce(PolicyLoss):
    def __init__(self, scale):
        self.scale, self.seen = scale, []

    def __call__(self, inputs):
        self.seen.append(inputs)
        used = inputs.weights > 0
        logprobs = torch.where(used, inputs.logprobs, torch.zeros_like(inputs.logprobs))
        loss = -self.scale * (inputs.weights * inputs.advantages[:, :, None] * logprobs).sum()
        nothing = torch.zeros(())
        return LossOutput(loss, loss.detach(), nothing, nothing)

class Entropic(Reinforce):
    needs_entropies = True

class Ranks:
    def __call__(self, inputs):
        self.seen = inputs
        order = inputs.rewards.argsort(dim=1).argsort(dim=1).float()
        return order - order.mean(dim=1, keepdim=True)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The override by which Hydra finds the folder."""
    (tmp_path / "own_parts.py").write_text(CLASSES)
    for group, text in (
        ("loss", "_target_: own_parts.Reinforce\nscale: 2.0\n"),
        ("advantage", "_target_: own_parts.Ranks\n"),
    ):
        (tmp_path / group).mkdir()
        (tmp_path / group / "own.yaml").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return f"hydra.searchpath=[file://{tmp_path}]"


def test_three_steps_with_a_loss_and_an_advantage_rule_of_ones_own(own: str) -> None:
    config = train_config(own, "loss=own", "advantage=own")
    assert not config.loss.has_reference
    loss: Any = build_loss(config.loss)
    rule: Any = build_advantage(config.advantage)
    model = tiny_model(seed=1)
    before = torch.nn.utils.parameters_to_vector(model.parameters()).clone()
    module, _ = make_module(model, PatternReward(), loss=loss, advantage=rule)
    assert module.reference is None
    trainer = fit(module, ranking_batch(), 3)
    assert trainer.global_step == 3
    assert module.last_step is not None
    assert module.last_step.finite
    scored = module.last_step.scored
    # Ranks of four responses less their mean: -1.5, -.5, .5, 1.5 in some order.
    assert scored.advantages[0].sort().values.tolist() == [-1.5, -0.5, 0.5, 1.5]
    # On the sampled tokens the loss is -2 sum w A log p; one micro-batch is one step.
    seen = loss.seen[-1]
    part = seen.weights * seen.advantages[:, :, None] * seen.logprobs.masked_fill(~seen.mask, 0.0)
    assert module.last_step.metrics["loss"] == pytest.approx(-2 * part.sum().item(), abs=1e-6)
    assert seen.reference is None
    assert seen.lengths.tolist() == scored.rollout.lengths.tolist()
    assert not torch.equal(torch.nn.utils.parameters_to_vector(model.parameters()), before)
    assert rule.seen.terms.keys() == {"length"}


def test_entropies_for_a_loss_that_asks_for_them(own: str) -> None:
    from own_parts import Entropic, Reinforce

    assert own
    seen = {}
    for loss in (Reinforce(1.0), Entropic(1.0)):
        model, batch = tiny_model(seed=1), ranking_batch()
        module, engine = make_module(model, PatternReward(), loss=loss)
        fit(module, batch, 1)
        seen[type(loss)] = loss.seen[-1]
    # The weights before the step are those of the same seed.
    rollout, inputs = engine.kept, seen[Entropic]
    expected = plain_logprobs(
        tiny_model(seed=1), batch.prompts, rollout.tokens, rollout.mask, temperature=0.9,
        with_entropy=True,
    ).entropy  # fmt: skip
    assert expected is not None
    kept = inputs.mask
    torch.testing.assert_close(inputs.entropies[kept], expected[: len(kept)][kept])
    assert not inputs.entropies.requires_grad
    # Log-probabilities do not change with it, and nothing is computed unasked.
    assert torch.equal(inputs.logprobs[kept], seen[Reinforce].logprobs[kept])
    assert seen[Reinforce].entropies is None
    assert seen[Reinforce].fields == {}


def test_advantages_of_fields_have_an_axis_more() -> None:
    fields = ("reasoning", "score")
    value = torch.zeros(2, 3, 2)
    assert checked_advantages(value, torch.zeros(2, 3), fields).shape == (2, 3, 2)
    with pytest.raises(ConfigError, match=r"must return a \[G, K, F\] = \[2, 3, 2\]"):
        checked_advantages(torch.zeros(2, 3), torch.zeros(2, 3), fields)
    value[1, 2, 1] = math.inf
    with pytest.raises(RunFaultError, match="inf for response 2 of image 1"):
        checked_advantages(value, torch.zeros(2, 3), fields)


def test_an_argument_that_a_class_of_ones_own_does_not_take(own: str) -> None:
    with pytest.raises(ConfigError, match=r"loss: own_parts.Reinforce: .*'clip'"):
        build_loss(train_config(own, "loss=own", "+loss.clip=1").loss)


def test_a_kl_weight_that_the_configuration_does_not_give(own: str) -> None:
    # Else the plan would leave the reference out of the memory.
    from own_parts import Reinforce  # type: ignore[import-not-found]

    Reinforce.kl_weight = 0.5
    with pytest.raises(ConfigError, match=r"give the weight as the key loss\.kl_weight"):
        build_loss(train_config(own, "loss=own").loss)


def test_advantages_of_each_token() -> None:
    # ratio 1, no KL, weights 1: minus the sum of the advantages, 1 + 2 + 3 + 4.
    logprobs = torch.full((1, 2, 2), -1.0)
    mask = torch.ones(1, 2, 2, dtype=torch.bool)

    def loss(advantages: torch.Tensor) -> float:
        inputs = LossInputs(
            logprobs, logprobs, None, None, mask, advantages, mask.float(), None, mask.sum(dim=2)
        )
        return GrpoLoss()(inputs).loss.item()

    assert loss(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])) == -10.0
    # One a response: 2 tokens of 1 and 2 of 3.
    assert loss(torch.tensor([[1.0, 3.0]])) == -8.0


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (1.0, "gave a float"),
        (torch.zeros(3), r"of the shape \[3\]; it must return a \[G, K\] = \[2, 3\]"),
        (torch.zeros(2, 3, dtype=torch.int64), "gave torch.int64"),
    ],
)
def test_advantages_of_another_form_are_refused(value: object, printed: str) -> None:
    with pytest.raises(ConfigError, match=f"advantage: .*{printed}"):
        checked_advantages(value, torch.zeros(2, 3))


def test_advantages_that_are_not_finite_stop_the_run() -> None:
    value = torch.zeros(2, 3)
    value[1, 2] = math.nan
    with pytest.raises(RunFaultError, match="nan for response 2 of image 1"):
        checked_advantages(value, torch.zeros(2, 3))
