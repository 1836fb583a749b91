"""Steps whose responses were sampled while the step before them was updated."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from tests.support.tiny_models import tiny_model
from tests.support.tiny_tokenizer import tiny_tokenizer
from tests.training.test_grpo import (
    Batches,
    K,
    PatternReward,
    assert_same_weights,
    fit,
    make_module,
    plain_gradients,
    ranking_batch,
)
from vqr1.errors import RolloutLostError
from vqr1.records import PromptBatch, Rollout
from vqr1.rollout.engine import UnderWay
from vqr1.rollout.local import LocalEngine
from vqr1.training.ahead import RolloutAhead
from vqr1.training.stages.grpo import GrpoModule
from vqr1.training.step import step_seed

CAP = 1.5
SEED = 3


def probe(model: Any) -> float:
    """One weight, by which a state of the policy is known."""
    return float(model.lm_head.weight.detach()[5, 5])


class Elsewhere:
    """A server in this process: weights of its own, answers after a time.

    Attributes:
        sampled: of every rollout, the probe of the weights and the seed.
        lost: numbers of begun rollouts that are lost with the server.
        cancelled: how many nobody waits for.
    """

    def __init__(self, policy: Any, seconds: float = 0.0, lost: tuple[int, ...] = ()) -> None:
        self._policy, self._model = policy, copy.deepcopy(policy)
        self._local = LocalEngine(self._model, tiny_tokenizer(), 4096)
        self._pool = ThreadPoolExecutor(1)
        self._seconds, self.lost = seconds, lost
        self._under_way = self._begun = self.cancelled = 0
        self.sampled: list[tuple[float, int]] = []
        self.rollouts: list[Rollout] = []

    def synchronise(self) -> None:
        assert not self._under_way
        self._model.load_state_dict(self._policy.state_dict())

    def sample(self, prompts: PromptBatch, vision: Any = None, **keys: Any) -> Rollout:
        time.sleep(self._seconds)
        self.sampled.append((probe(self._model), keys["seed"]))
        self.rollouts.append(self._local.sample(prompts, **keys))
        return self.rollouts[-1]

    def begin(self, prompts: PromptBatch, **keys: Any) -> UnderWay:
        self._begun += 1
        self._under_way += 1
        number, asked = self._begun, self._pool.submit(self.sample, prompts, **keys)

        def wait() -> Rollout:
            rollout = asked.result()
            self._under_way -= 1
            if number in self.lost:
                raise RolloutLostError("lost the rollout server")
            return rollout

        def cancel() -> None:
            self.cancelled += 1

        return UnderWay(wait, cancel)

    def with_model(self, model: Any) -> Elsewhere:
        self._policy = model
        return self


def module_with(
    model: Any, ahead: bool = True, iterations: int = 1, **engine: Any
) -> tuple[GrpoModule, Elsewhere]:
    """A module that samples elsewhere; it learns from `PatternReward`."""
    module, _ = make_module(model, PatternReward(), importance_cap=CAP)
    module.engine = server = Elsewhere(model, **engine)
    if ahead:
        module.ahead = RolloutAhead(ranking_batch, K)
    return module, server


def probes_of_updates(module: GrpoModule, then: Callable[[], None] = lambda: None) -> list[float]:
    """The policy before every update, noted as the module is trained."""
    found, update = [], module.update

    def noted(*args: Any, **keys: Any) -> float:
        found.append(probe(module.model))
        norm = update(*args, **keys)
        then()
        return norm

    module.update = noted  # type: ignore[method-assign]
    return found


def test_each_step_learns_from_the_policy_before_the_last_update() -> None:
    module, server = module_with(tiny_model(seed=1))
    before = probes_of_updates(module)
    learnt: list[Any] = []
    update = module._update
    module._update = lambda batch, scored, *rest: (  # type: ignore[method-assign]
        learnt.append(scored.rollout), update(batch, scored, *rest))[1]  # fmt: skip
    trainer = fit(module, ranking_batch(), 4)
    w0, w1, w2, w3 = before
    assert len({w0, w1, w2, w3}) == 4
    # Step 0 samples for itself; then w_t samples for step t + 1. The fifth was asked for too: of
    # total_steps=10 only 4 were taken.
    seeds = [step_seed(SEED, step) for step in range(5)]
    assert module.ahead is not None
    module.ahead.finish()
    assert server.sampled == list(zip([w0, w0, w1, w2, w3], seeds, strict=True))
    for used, sampled in zip(learnt, server.rollouts, strict=False):
        assert torch.equal(used.tokens, sampled.tokens)
        assert torch.equal(used.logprobs, sampled.logprobs)
    assert trainer.global_step == 4


def test_nothing_is_asked_for_after_the_last_step() -> None:
    module, server = module_with(tiny_model(seed=1))
    object.__setattr__(module.settings, "total_steps", 3)
    fit(module, ranking_batch(), 3)
    assert [seed for _, seed in server.sampled] == [step_seed(SEED, step) for step in range(3)]
    assert module.ahead is not None
    assert module.ahead.state() == []


def test_the_gradient_is_that_of_the_importance_weights() -> None:
    model = tiny_model(seed=1)
    reference = copy.deepcopy(model)
    module, server = module_with(model)
    states: list[Any] = []
    probes_of_updates(module, lambda: states.append(copy.deepcopy(model.state_dict())))
    fit(module, ranking_batch(), 2)
    # The second step's gradient stands in the weights; it was taken at those of the first.
    expected = tiny_model(seed=1)
    expected.load_state_dict(states[0])
    rollout = server.rollouts[1]
    plain_gradients(expected, reference, ranking_batch(), rollout, cap=CAP)
    for (name, ours), theirs in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert ours.grad is not None, name
        scale = theirs.grad.abs().max().item()
        assert (ours.grad - theirs.grad).abs().max().item() <= 1e-5 * scale + 1e-9, name
    # What is compared is another gradient than that without the weights.
    assert module.last_step is not None
    assert module.last_step.metrics["mismatch/logprob_gap"] > 0.01
    assert module.last_step.metrics["mismatch/capped_rate"] > 0


@pytest.mark.medium
def test_a_checkpoint_holds_the_responses_under_way(tmp_path: Path) -> None:
    whole, server = module_with(tiny_model(seed=1))
    fit(whole, ranking_batch(), 4)
    module, _ = module_with(tiny_model(seed=1), seconds=0.2)
    fit(module, ranking_batch(), 2).save_checkpoint(tmp_path / "state.ckpt")
    saved = torch.load(tmp_path / "state.ckpt", weights_only=True)["rollout_ahead"]
    assert torch.equal(saved[0]["rollout"]["tokens"], server.rollouts[2].tokens)
    resumed, asked = module_with(tiny_model(seed=1))
    trainer = L.Trainer(
        accelerator="cpu", max_steps=4, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(Batches(ranking_batch(), 100), batch_size=None)
    trainer.fit(resumed, loader, ckpt_path=tmp_path / "state.ckpt", weights_only=True)
    # The third step's responses are in the file; the fourth's are asked for with the same weights.
    assert asked.sampled[0] == server.sampled[3]
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], weight), name
    # Of a run of two ranks, one rank takes none.
    ahead = RolloutAhead(ranking_batch, K)
    ahead.load_state([saved[0], saved[0]])
    assert ahead.take(ranking_batch()) is None


def test_responses_to_other_images_are_not_taken() -> None:
    module, _ = module_with(tiny_model(seed=1))
    fit(module, ranking_batch(), 1)
    ahead, batch = module.ahead, ranking_batch()
    assert ahead is not None
    assert ahead.take(batch) is not None
    assert ahead.take(batch) is not None  # kept until the step has begun the next one's
    assert ahead.take(replace(batch, dataset="other")) is None
    assert ahead.take(replace(batch, index=batch.index + 1)) is None


def test_lost_responses_are_sampled_by_the_weights_of_now(
    caplog: pytest.LogCaptureFixture,
) -> None:
    module, server = module_with(tiny_model(seed=1), lost=(2,))
    before = probes_of_updates(module)
    with caplog.at_level(logging.WARNING):
        fit(module, ranking_batch(), 4)
    assert caplog.text.count("the responses under way are lost") == 1
    assert module.ahead is not None
    module.ahead.finish()
    w0, w1, w2, w3 = before
    # The third step's came from w1 and were lost.
    assert [found for found, _ in server.sampled] == [w0, w0, w1, w2, w2, w3]
    assert server.sampled[2][1] == server.sampled[3][1] == step_seed(SEED, 2)


def test_responses_under_way_are_cancelled_where_training_fails() -> None:
    module, server = module_with(tiny_model(seed=1))

    def fail() -> None:
        raise RuntimeError("out of memory")

    probes_of_updates(module, fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(module, ranking_batch(), 3)
    assert server.cancelled == 1
    assert module.ahead is not None
    assert module.ahead.state() == []


def test_a_validation_waits_for_the_responses_under_way() -> None:
    module, server = module_with(tiny_model(seed=1), seconds=0.1)
    plain, _ = module_with(tiny_model(seed=1))
    validated: list[float] = []

    def validate(*_: Any) -> None:
        # The server's `synchronise` checks that none are under way.
        module.on_validation_epoch_start()
        validated.append(probe(server._model))
        module.end_validation()

    module.on_train_batch_end = validate  # type: ignore[method-assign,assignment]
    before = probes_of_updates(module)
    fit(module, ranking_batch(), 3)
    assert validated == [*before[1:], probe(module.model)]
    fit(plain, ranking_batch(), 3)
    assert_same_weights(module.model, plain.model, atol=0)


@pytest.mark.slow
def test_a_server_that_takes_as_long_as_the_update_costs_no_time_of_its_own() -> None:
    """Either takes so many seconds, most of them asleep: n + 1 times that in place of 2 n."""
    # So long that what a busy machine adds to either is little beside it.
    seconds, steps = 3.0, 6

    def wall_clock(ahead: bool) -> float:
        module, _ = module_with(tiny_model(seed=1), ahead=ahead, seconds=seconds)
        object.__setattr__(module.settings, "total_steps", steps)
        update = module._update

        def slow(*args: Any) -> Any:
            end = time.monotonic() + seconds
            found = update(*args)
            time.sleep(max(0.0, end - time.monotonic()))
            return found

        module._update = slow  # type: ignore[method-assign]
        started = time.monotonic()
        fit(module, ranking_batch(), steps)
        return time.monotonic() - started

    serial = wall_clock(ahead=False)
    assert serial > 2 * steps * seconds
    assert wall_clock(ahead=True) < 0.65 * serial
