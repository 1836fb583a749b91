"""The step against a plain GRPO step written out with ordinary transformers calls."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import lightning as L
import pytest
import torch

from tests.evaluation.builders import THINKING
from tests.support.plain_logprobs import plain_logprobs
from tests.support.tiny_models import tiny_model, tiny_prompts
from tests.support.tiny_tokenizer import tiny_tokenizer
from vqr1.config import (
    GrpoConfig,
    LoraConfig,
    OptimizerConfig,
    PerceptionConfig,
    SamplingConfig,
)
from vqr1.data.degraded import degraded_prompts
from vqr1.distributed.sharding import Replicated
from vqr1.iqa.answers import PUBLISHED, AnswerForm
from vqr1.policy.loading import Policy, _add_adapters
from vqr1.policy.vision import VisionCache
from vqr1.records import LossOutput, PromptBatch, RankingBatch, Rollout
from vqr1.rewards import RewardInputs, WeightedRewards
from vqr1.rollout.local import LocalEngine
from vqr1.training.advantages import GroupNormalised, group_advantages
from vqr1.training.losses import GrpoLoss, LossInputs
from vqr1.training.losses.perception import perception_weight
from vqr1.training.stages.grpo import GrpoModule
from vqr1.training.step import StepSettings, non_finite_cause, step_seed
from vqr1.training.task import RANKING, Task
from vqr1.training.validation import Validator, validation_modes

B, K, LIMIT = 3, 4, 6
SAMPLING = SamplingConfig(temperature=0.9, max_new_tokens=LIMIT, stop="eos")


class PatternReward:
    """Random tokens hold no scores: a fixed pattern that gives each response its own reward."""

    ranks = False

    def __init__(self, same: bool = False) -> None:
        self.same = same

    def __call__(self, inputs: RewardInputs) -> torch.Tensor:
        rows, columns = inputs.scores.shape
        grid = torch.arange(rows * columns, dtype=torch.float32).reshape(rows, columns)
        grid = (grid * 7919) % 5
        # The last image's answers are all worth the same: a zero-variance group.
        grid[-1] = 1.0
        return torch.ones_like(grid) if self.same else grid


class Batches(torch.utils.data.Dataset[RankingBatch]):
    def __init__(self, batch: RankingBatch, count: int) -> None:
        self.batch, self.count = batch, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> RankingBatch:
        return self.batch


class KeepRollout(LocalEngine):
    """The real engine; keeps what it sampled for the plain step."""

    def sample(self, prompts: PromptBatch, **keys: Any) -> Rollout:
        self.kept = super().sample(prompts, **keys)
        return self.kept


class KeptGradients(Replicated):
    """Keeps the gradients of the last update, to be looked at."""

    def __init__(self) -> None:
        self.last: dict[torch.nn.Parameter, torch.Tensor | None] = {}

    def zero_grad(self, optimizer: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.last = {p: p.grad for p in parameters}
        super().zero_grad(optimizer)


def ranking_batch() -> RankingBatch:
    prompts = tiny_prompts([(2, 2), (2, 4), (4, 2)], [3, 5, 4])
    return RankingBatch(
        "demo", (("a",), ("b",), ("c",)), prompts, torch.tensor([1.0, 3.0, 5.0]), torch.arange(B)
    )


def make_module(
    model: Any, reward: Any, answer: AnswerForm = PUBLISHED, **changes: Any
) -> tuple[GrpoModule, KeepRollout]:
    """The module, trained by one reward or by weighted ones, and its engine."""
    tokenizer = tiny_tokenizer()
    engine = KeepRollout(model, tokenizer, 4096)
    settings = StepSettings(
        grpo=GrpoConfig(group_size=K),
        loss=GrpoLoss(kl_weight=0.3),
        advantage=GroupNormalised(),
        sampling=SAMPLING,
        optimizer=OptimizerConfig(lr=1e-2, schedule="constant", max_grad_norm=0.5),
        micro_batch_tokens=4096,
        total_steps=10,
        seed=3,
    )
    settings = replace(settings, **changes)
    validator = Validator(engine, validation_modes(SAMPLING, 0, 0, THINKING, PUBLISHED))
    single = not isinstance(reward, WeightedRewards)
    rewards = WeightedRewards({"length": (1.0, reward)}) if single else reward
    policy = Policy(model, None, "none")
    tasks = {RANKING: Task(rewards, answer)}
    return GrpoModule(policy, engine, tasks, validator, settings), engine


def fit(module: GrpoModule, batch: RankingBatch, steps: int) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(Batches(batch, 100), batch_size=None)
    kept = KeptGradients()
    if type(module.sharding) is Replicated:
        module.shard(kept)
    trainer.fit(module, loader)
    for parameter, gradient in kept.last.items():
        # A step leaves none: the next rollout has their memory.
        assert parameter.grad is None
        parameter.grad = gradient
    return trainer


def plain_gradients(
    model: Any,
    reference: Any,
    batch: RankingBatch,
    rollout: Rollout,
    factors: Any = (1.0,) * B,
    copies: tuple[float, PromptBatch] | None = None,
    cap: float | None = None,
) -> None:
    """One GRPO step as a textbook has it: every response with its own prompt and image.

    `copies`: weight of the perception term and prompts of the degraded images; `cap`: of each
    token's importance weight against what the engine reported.
    """
    rewards = PatternReward()(RewardInputs(torch.zeros(B, K), *[torch.ones(B, K)] * 3))
    advantages = group_advantages(rewards)
    logprobs = plain_logprobs(model, batch.prompts, rollout.tokens, rollout.mask, temperature=0.9)
    with torch.no_grad():
        target = plain_logprobs(
            reference, batch.prompts, rollout.tokens, rollout.mask, temperature=0.9
        )
    loss = torch.zeros(())
    for b in range(B - 1):  # the last group has zero variance
        for k in range(K):
            length = int(rollout.mask[b, k].sum())
            lp, ref = logprobs.logprobs[b, k, :length], target.logprobs[b, k, :length]
            ratio = (lp - lp.detach()).exp()
            kl = (ref - lp).exp() - (ref - lp) - 1
            policy = -(ratio * advantages[b, k]) * factors[b]
            if cap is not None and rollout.logprobs is not None:
                policy *= (lp.detach() - rollout.logprobs[b, k, :length]).exp().clamp(max=cap)
            loss = loss + (policy + 0.3 * kl).mean() / (B * K)
    if copies is not None:
        gamma, prompts = copies
        with torch.no_grad():
            seen = plain_logprobs(model, prompts, rollout.tokens, rollout.mask, temperature=0.9)
        gap = (seen.logprobs - logprobs.logprobs)[:-1][rollout.mask[:-1]]
        loss = loss - gamma * (gap.exp() - gap - 1).sum() / rollout.mask.sum()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)


class OtherArithmetic(KeepRollout):
    """An engine that reports twice, half and once the probability, by image."""

    def sample(self, prompts: PromptBatch, **keys: Any) -> Rollout:
        rollout = super().sample(prompts, **keys)
        assert rollout.logprobs is not None
        return replace(rollout, logprobs=rollout.logprobs + FACTORS.log()[:, None, None])


FACTORS = torch.tensor([2.0, 0.5, 1.0])


@pytest.mark.parametrize("budget", [4096, 40], ids=["one pass", "micro-batches"])
def test_another_engines_arithmetic_is_corrected_token_by_token(budget: int) -> None:
    model = tiny_model(seed=1)
    expected, reference = copy.deepcopy(model), copy.deepcopy(model)
    module, _ = make_module(model, PatternReward(), micro_batch_tokens=budget, importance_cap=1.5)
    engine = OtherArithmetic(model, tiny_tokenizer(), 4096)
    module.engine = engine
    batch = ranking_batch()
    fit(module, batch, 1)
    # Weights p / q of 1/2, 2 and 1, the second one cut at 1.5.
    plain_gradients(expected, reference, batch, engine.kept, factors=(0.5, 1.5, 1.0))
    for (name, ours), theirs in zip(model.named_parameters(), expected.parameters(), strict=True):
        if theirs.grad is not None:
            assert ours.grad is not None, name
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-5)
    assert module.last_step is not None
    metrics = module.last_step.metrics
    one, two = engine.kept.mask.sum(dim=(1, 2)).tolist()[:2]
    assert metrics["mismatch/capped_rate"] == pytest.approx(two / (one + two))
    assert metrics["mismatch/logprob_gap"] == pytest.approx(math.log(2), abs=1e-5)


def assert_same_weights(ours: Any, expected: Any, atol: float) -> None:
    for (name, a), (_, b) in zip(ours.named_parameters(), expected.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("budget", [4096, 40], ids=["one pass", "micro-batches"])
def test_gradients_of_the_second_step_equal_the_plain_ones(budget: int) -> None:
    # After one step the policy differs from its reference, so that the KL term has a gradient.
    model = tiny_model(seed=1)
    reference = copy.deepcopy(model)
    module, engine = make_module(model, PatternReward(), micro_batch_tokens=budget)
    weights_of_step: list[dict[str, torch.Tensor]] = []
    module.on_train_batch_start = lambda *_: weights_of_step.append(  # type: ignore[method-assign]
        copy.deepcopy(model.state_dict())
    )
    fit(module, ranking_batch(), 2)
    plain = tiny_model(seed=1)
    plain.load_state_dict(weights_of_step[1])
    plain_gradients(plain, reference, ranking_batch(), engine.kept)
    for (name, ours), expected in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None, name
        scale = expected.grad.abs().max().item()
        assert (ours.grad - expected.grad).abs().max().item() <= 1e-5 * scale + 1e-9, name


@pytest.mark.parametrize("freeze", [False, True], ids=["tower trains", "tower frozen"])
def test_gradients_of_the_perception_term_equal_the_plain_ones(freeze: bool) -> None:
    model = tiny_model(seed=1)
    model.model.visual.requires_grad_(not freeze)
    plain, reference = copy.deepcopy(model), copy.deepcopy(model)
    config = PerceptionConfig(weight=2.0, until=0.5, degradation={"darkness": 0.1, "jpeg": (4, 9)})
    batch = ranking_batch()
    module, engine = make_module(
        model, PatternReward(), micro_batch_tokens=40, total_steps=4, perception=config
    )
    trainer = fit(module, batch, 1)
    names = [["demo/a"], ["demo/b"], ["demo/c"]]
    prompts = degraded_prompts(batch.prompts, names, config.degradation, seed=3)
    assert not any(map(torch.equal, prompts.flat_images, batch.prompts.flat_images))
    plain_gradients(plain, reference, batch, engine.kept, copies=(2.0, prompts))
    for (name, ours), expected in zip(model.named_parameters(), plain.parameters(), strict=True):
        if expected.grad is None:
            assert ours.grad is None, name
            continue
        assert ours.grad is not None, name
        scale = expected.grad.abs().max().item()
        assert (ours.grad - expected.grad).abs().max().item() <= 1e-5 * scale + 1e-9, name
    # What is logged: the mean over the tokens of the groups in the update.
    with torch.no_grad():
        copied, original = (
            plain_logprobs(reference, p, engine.kept.tokens, engine.kept.mask, temperature=0.9)
            for p in (prompts, batch.prompts)
        )
    gap = (copied.logprobs - original.logprobs)[:-1][engine.kept.mask[:-1]]
    logged = trainer.callback_metrics["train/perception_kl"].item()
    assert logged == pytest.approx((gap.exp() - gap - 1).mean().item(), rel=1e-3)
    # Half the cosine after one of the two steps for which the term counts, none after both.
    assert [perception_weight(config, s, 4) for s in range(3)] == pytest.approx([2.0, 1.0, 0.0])


def test_no_signal_changes_no_weight_but_counts_the_step() -> None:
    model = tiny_model(seed=1)
    before = copy.deepcopy(model)
    module, _ = make_module(
        model,
        PatternReward(same=True),
        optimizer=OptimizerConfig(lr=1e-2, weight_decay=0.1, schedule="constant"),
    )
    trainer = fit(module, ranking_batch(), 2)
    assert trainer.global_step == 2
    assert_same_weights(model, before, 0.0)
    assert trainer.callback_metrics["train/zero_variance_rate"].item() == 1.0


@pytest.mark.medium
def test_same_seed_same_weights_and_another_seed_another_sample() -> None:
    def run(seed: int) -> tuple[Any, torch.Tensor]:
        model = tiny_model(seed=1)
        module, engine = make_module(model, PatternReward(), seed=seed)
        fit(module, ranking_batch(), 2)
        return model, engine.kept.tokens

    first, tokens = run(3)
    second, again = run(3)
    _, other = run(4)
    assert_same_weights(first, second, 0.0)
    assert torch.equal(tokens, again)
    assert tokens.shape != other.shape or not torch.equal(tokens, other)
    assert len({step_seed(seed, step) for step in range(50) for seed in range(2)}) == 100


def test_inner_iterations_take_that_many_optimiser_steps() -> None:
    model = tiny_model(seed=1)
    module, _ = make_module(
        model, PatternReward(), grpo=GrpoConfig(group_size=K, num_iterations=3), loss=GrpoLoss()
    )
    assert module.reference is None
    trainer = fit(module, ranking_batch(), 3)
    # The first pass is on policy (ratio 1); later ones are not, and large steps reach the clip.
    assert trainer.global_step == 3
    assert trainer.callback_metrics["train/clip_fraction"].item() > 0


def test_the_last_rollout_takes_no_updates_beyond_the_last_step() -> None:
    grpo = GrpoConfig(group_size=K, num_iterations=3)
    module, _ = make_module(
        tiny_model(seed=1), PatternReward(), grpo=grpo, loss=GrpoLoss(), total_steps=4
    )
    # Three updates of the first rollout, and one of the second.
    assert fit(module, ranking_batch(), 4).global_step == 4


@pytest.mark.medium
@pytest.mark.parametrize("freeze", [False, True], ids=["tower trains", "tower frozen"])
def test_a_tower_that_does_not_change_sees_every_image_once(freeze: bool) -> None:
    def run(cache: VisionCache | None) -> tuple[Any, list[int]]:
        model = tiny_model(seed=1)
        model.model.visual.requires_grad_(not freeze)
        module, _ = make_module(model, PatternReward())
        module.vision_cache = cache
        assert module.reference is not None
        tower = model if freeze else module.reference.model
        images: list[int] = []
        tower.model.visual.register_forward_hook(
            lambda _m, args, kwargs, _o: images.append(len(kwargs["grid_thw"])), with_kwargs=True
        )
        fit(module, ranking_batch(), 3)
        return model, images

    plain, every_time = run(None)
    cached, once = run(VisionCache())
    assert sum(every_time) == 3 * B
    assert sum(once) == B
    for (name, weight), expected in zip(cached.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-5, msg=name)


def test_adapters_train_and_the_reference_is_the_adapter_switched_off() -> None:
    model = tiny_model(seed=1)
    base = copy.deepcopy(model)
    adapted = _add_adapters(model, LoraConfig(rank=2, alpha=4.0))
    module, _ = make_module(adapted, PatternReward())
    batch = ranking_batch()
    trainer = fit(module, batch, 3)
    assert trainer.callback_metrics["train/kl"].item() > 0
    assert module.reference is not None
    tokens = torch.randint(0, 50, (B, K, 3), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens, dtype=torch.bool)
    with module.reference.weights() as reference:
        off = plain_logprobs(reference, batch.prompts, tokens, mask).logprobs
    with torch.no_grad():
        expected = plain_logprobs(base, batch.prompts, tokens, mask).logprobs
        trained = plain_logprobs(adapted, batch.prompts, tokens, mask).logprobs
    torch.testing.assert_close(off, expected)
    assert not torch.allclose(trained, expected)
    assert not any(".visual." in n for n, p in adapted.named_parameters() if p.requires_grad)


class WatchedDivision(Replicated):
    """Knows whether all weights are asked for."""

    asked = False

    @contextmanager
    def unsharded(self) -> Iterator[None]:
        self.asked = True
        yield
        self.asked = False


@pytest.mark.parametrize("iterations", [1, 2])
def test_a_frozen_tower_is_used_while_all_weights_are_there(iterations: int) -> None:
    # Processes know different images already: a pass by one of them alone must need no other.
    model = tiny_model(seed=4)
    model.model.visual.requires_grad_(False)
    settings = GrpoConfig(group_size=K, num_iterations=iterations)
    module, _ = make_module(model, PatternReward(), grpo=settings, loss=GrpoLoss())
    division = WatchedDivision()
    seen: list[bool] = []

    class WatchedCache(VisionCache):
        def encode(self, *images: Any) -> Any:
            seen.append(division.asked)
            return super().encode(*images)

    module.shard(division)
    module.vision_cache = WatchedCache()
    fit(module, ranking_batch(), 2 * iterations)
    assert seen == [True, True]


@pytest.mark.parametrize("iterations", [1, 2])
def test_a_skipped_update_names_what_was_not_finite(iterations: int) -> None:
    model = tiny_model(seed=1)
    grpo = GrpoConfig(group_size=K, num_iterations=iterations)
    module, _ = make_module(model, PatternReward(), grpo=grpo)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    reference = module._reference_logprobs

    def broken(*args: Any) -> Any:
        logprobs = reference(*args)
        assert logprobs is not None
        logprobs[0, 0, 0] = math.nan
        return logprobs

    module._reference_logprobs = broken  # type: ignore[method-assign]
    fit(module, ranking_batch(), iterations)
    assert module.last_step is not None
    assert not module.last_step.finite
    assert module.last_step.cause == "log-probabilities under the reference"
    for name, weight in model.state_dict().items():
        assert weight.equal(before[name]), name


def test_what_was_not_finite_of_a_step() -> None:
    model = tiny_model(seed=1)
    module, _ = make_module(model, PatternReward())
    fit(module, ranking_batch(), 1)
    assert module.last_step is not None
    scored = module.last_step.scored
    logprobs = torch.zeros(scored.rollout.mask.shape)
    assert non_finite_cause(scored, None, logprobs) == ""
    assert non_finite_cause(scored, logprobs, logprobs - math.inf) == (
        "log-probabilities under the policy"
    )
    assert non_finite_cause(
        replace(scored, advantages=scored.advantages * math.nan), None, logprobs
    ) == ("advantages")
    assert (module.last_step.finite, module.last_step.cause) == (True, "")


class Recorded(GrpoLoss):
    """The real loss; keeps each step's share of the KL weight, and whether it had a reference."""

    def __call__(self, inputs: LossInputs) -> LossOutput:
        SHARES.append((inputs.kl_share, inputs.reference is not None))
        return super().__call__(inputs)


SHARES: list[tuple[float, bool]] = []


def test_the_kl_falls_and_then_costs_no_pass() -> None:
    SHARES.clear()
    loss = Recorded(kl_weight=0.3)
    module, _ = make_module(tiny_model(), PatternReward(), loss=loss, total_steps=4, kl_until=0.5)
    fit(module, ranking_batch(), 4)
    assert [share for share, _ in SHARES] == pytest.approx([1.0, 0.5, 0.0, 0.0])
    assert [referred for _, referred in SHARES] == [True, True, False, False]
