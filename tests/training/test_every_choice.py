"""Each packaged loss, advantage rule and reward: two real steps; each loss against a textbook."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from tests.cli.test_configs import choices, train_config
from tests.support.plain_logprobs import plain_logprobs
from tests.support.tiny_models import tiny_model
from tests.support.tiny_tokenizer import tiny_tokenizer
from tests.training.test_grpo import LIMIT, B, K, PatternReward, fit, make_module, ranking_batch
from vqr1.errors import ConfigError
from vqr1.policy.shared_prompt import response_logprobs
from vqr1.records import BatchLabels, RankingBatch
from vqr1.rewards import OverlongReward, RewardInputs, WeightedRewards
from vqr1.rewards.build import build_rewards
from vqr1.training.advantages import AdvantageInputs, ByComponent, build_advantage
from vqr1.training.label_checks import check_labels
from vqr1.training.losses import LossInputs, build_loss
from vqr1.training.losses.averaging import token_weights
from vqr1.training.token_fields import credit_tokens

pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def policy() -> Any:
    return tiny_model(seed=1)


def labelled_batch() -> RankingBatch:
    labels = BatchLabels(
        torch.tensor([0.3, 0.4, 0.5]), ("r", "r", None), ("blur", "noise", "blur"),
        {"severity": ("slight", None, "serious")},
    )  # fmt: skip
    return replace(ranking_batch(), labels=labels)


@cache
def config_of(override: str) -> Any:
    """Composing takes most of a test's time here, and what is composed is not changed."""
    return train_config(*override.split())


def two_steps(policy: Any, reward: Any, **changes: Any) -> Any:
    model = copy.deepcopy(policy)
    module, _ = make_module(model, PatternReward() if reward is None else reward, **changes)
    module.policy = SimpleNamespace(processor=SimpleNamespace(tokenizer=tiny_tokenizer()))
    fit(module, labelled_batch(), 2)
    assert module.global_step == 2
    step = module.last_step
    assert step is not None
    assert step.finite
    assert math.isfinite(step.metrics["loss"])
    return module


@pytest.mark.parametrize("name", choices("loss"))
def test_each_loss_takes_steps(name: str, policy: Any) -> None:
    module = two_steps(policy, None, loss=build_loss(config_of(f"loss={name}").loss))
    before, after = (
        torch.nn.utils.parameters_to_vector(model.parameters()) for model in (policy, module.model)
    )
    assert not before.equal(after)


class Half(PatternReward):
    """Another pattern, so that two terms do not go together."""

    def __call__(self, inputs: RewardInputs) -> Tensor:
        return super().__call__(inputs).flip(1) / 2


@pytest.mark.parametrize("name", choices("advantage"))
def test_each_advantage_rule_takes_steps(name: str, policy: Any) -> None:
    terms = WeightedRewards({"margin": (1.0, PatternReward()), "format": (0.5, Half())})
    rule = build_advantage(config_of(f"advantage={name}").advantage)
    module = two_steps(policy, terms, advantage=rule)
    assert module.last_step.scored.has_variance.any()


@pytest.mark.parametrize("name", choices("reward"))
def test_each_reward_takes_steps(name: str, policy: Any) -> None:
    rewards = build_rewards(config_of(f"reward={name}").reward)
    form = "answer=five_ratings" if rewards.least_attributes() else "answer=think_answer"
    module = two_steps(policy, rewards, answer=config_of(form).answer.form)
    scored = module.last_step.scored
    assert scored.terms.keys() == rewards.terms.keys()
    assert all(term.shape == (B, K) for term in scored.terms.values())


def textbook(name: str, lp: Tensor, old: Tensor, ref: Tensor, sampler: Tensor, a: float,
             entropy: Tensor, limit: float) -> Tensor:  # fmt: skip
    """The losses of one response's tokens, [length], as their papers write them; beta added."""
    gap = lp - old
    ratio = gap.exp()
    beta = {"grpo": 0.04, "off_policy_mask": 0.04, "two_sided": 0.001}.get(name, 0.0)
    kl = (ref - lp).exp() - (ref - lp) - 1
    if name in ("gspo", "luspo"):
        s = gap.mean().exp().expand_as(lp)
        loss = -torch.minimum(s * a, s.clamp(1 - 3e-4, 1 + 4e-4) * a)
    elif name == "cispo":
        loss = -ratio.clamp(max=5.0).detach() * a * lp
    elif name == "sapo":
        tau = 1.0 if a > 0 else 1.05
        loss = -a * 4 / tau / (1 + (-tau * (ratio - 1)).exp())
    elif name == "vespo":
        k, rate = (2.0, 3.0) if a >= 0 else (3.0, 2.0)
        w = gap.sum().detach()
        loss = -(rate + k * w - rate * w.exp()).exp() * a * lp
    else:
        high = 0.28 if name in ("dapo", "high_entropy") else 0.2
        first = ratio.clamp(max=4.0) if name == "two_sided" else ratio
        loss = -torch.minimum(first * a, ratio.clamp(0.8, 1 + high) * a)
    if name == "high_entropy":
        loss = loss * (entropy >= limit)
    if name == "off_policy_mask" and a < 0 and (sampler - lp.detach()).mean() > 0.5:
        loss = loss * 0
    return loss + beta * kl


@pytest.mark.parametrize(
    "name", sorted({*choices("loss")} - {"kl_cov", "clip_cov"})
)  # those by the vectors of the public code
def test_each_loss_against_a_textbook_on_the_unshared_path(name: str, policy: Any) -> None:
    generator = torch.Generator().manual_seed(4)
    batch = ranking_batch()
    lengths = torch.tensor([[3, 5, 1, 4], [2, 2, 6, 3], [5, 1, 2, 4]])
    mask = torch.arange(LIMIT) < lengths[:, :, None]
    tokens = torch.randint(5, 40, (B, K, LIMIT), generator=generator)
    loss = build_loss(config_of(f"loss={name}").loss)
    ours, plain = copy.deepcopy(policy).double(), copy.deepcopy(policy).double()
    shared = response_logprobs(ours, batch.prompts, tokens, mask, with_entropy=True)
    full = plain_logprobs(plain, batch.prompts, tokens, mask, with_entropy=True)

    def near(width: float) -> Tensor:
        noise = torch.randn(B, K, LIMIT, generator=generator, dtype=torch.float64)
        return shared.logprobs.detach() + width * noise

    old, ref, sampler = near(0.4), near(0.3), near(0.8)
    advantages = torch.randn(B, K, generator=generator, dtype=torch.float64)
    every = torch.ones(B, dtype=torch.bool)
    weights = token_weights(mask, every, loss.averaging, LIMIT)
    found = loss(
        LossInputs(
            shared.logprobs, old, sampler, ref if loss.kl_weight else None, mask, advantages,
            weights, None, lengths, shared.entropy if loss.needs_entropies else None,
        )
    ).loss  # fmt: skip
    found.backward()
    expected, count = torch.zeros(()), int(lengths.sum())
    for b in range(B):
        values = full.entropy[b][mask[b]].detach()
        limit = float(torch.quantile(values, 0.8)) - 1e-6
        for k in range(K):
            n = int(lengths[b, k])
            token = textbook(
                name, full.logprobs[b, k, :n], old[b, k, :n], ref[b, k, :n], sampler[b, k, :n],
                float(advantages[b, k]), full.entropy[b, k, :n].detach(), limit,
            )  # fmt: skip
            share = {
                "response_mean": 1 / (n * B * K), "token_mean": 1 / count,
                "dr_grpo": 1 / (LIMIT * B * K), "response_sum": 1 / (B * K),
            }[loss.averaging]  # fmt: skip
            expected = expected + token.sum() * share
    expected.backward()
    torch.testing.assert_close(found.detach(), expected.detach(), rtol=1e-5, atol=1e-10)
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        if one.grad is not None and other.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-6)


def test_credit_by_component_by_hand() -> None:
    # Term a: 0, 2 -> -.7071, .7071; term b: 1, 1 -> 0; field score gets a, response a + b.
    terms = {"a": torch.tensor([[0.0, 2.0]]), "b": torch.tensor([[1.0, 1.0]])}
    rule = ByComponent(components={"score": ["a"], "response": ["b", "a"]}, of_valid=["a"])
    valid = torch.ones(1, 2, dtype=torch.bool)
    found = rule(AdvantageInputs(terms["a"], terms, valid, torch.ones(1, 2).long()))
    z = 1 / math.sqrt(2)
    torch.testing.assert_close(found, torch.tensor([[[-z, -z], [z, z]]]), rtol=0, atol=1e-5)
    masks = {
        "score": torch.tensor([[[False, True, False], [False, True, False]]]),
        "response": torch.tensor([[[True, True, True], [True, True, False]]]),
    }
    tokens = credit_tokens(found, masks)
    expected = torch.tensor([[[-z, -2 * z, -z], [z, 2 * z, 0.0]]])
    torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-5)
    # The second response has no score: it is not compared in a, and nothing is left to compare.
    alone = rule(AdvantageInputs(terms["a"], terms, torch.tensor([[True, False]]), valid.long()))
    assert alone.abs().max() == 0


@pytest.mark.parametrize(
    ("override", "printed"),
    [
        ("loss.clip_high=-1", r"loss\.clip_high"),
        ("loss.ratio_cap=1", r"loss\.ratio_cap"),
        ("loss.entropy_quantile=1", r"loss\.entropy_quantile"),
        ("loss.off_policy_limit=0", r"loss\.off_policy_limit"),
        ("loss.kl=k4", r"loss\.kl"),
        ("loss.ratio=word", r"loss\.ratio"),
        ("loss=cispo loss.floor=6", "the floor must be the lower one"),
        ("loss=clip_cov loss.lowest=9", "must rise"),
        ("loss=kl_cov loss.share=0", r"loss\.share"),
        ("loss=sapo loss.temperature=0", r"loss\.temperature"),
    ],
)
def test_constants_of_losses_out_of_range(override: str, printed: str) -> None:
    with pytest.raises(ConfigError, match=printed):
        build_loss(train_config(*override.split()).loss)


@pytest.mark.parametrize(
    ("override", "printed"),
    [
        ("advantage=uncertainty advantage.alpha=-1", r"advantage\.alpha"),
        ("advantage=gdpo advantage.epsilon=0", r"advantage\.epsilon"),
        ("advantage=by_component advantage.of_valid=[x]", "of_valid: x"),
    ],
)
def test_constants_of_advantages_out_of_range(override: str, printed: str) -> None:
    with pytest.raises(ConfigError, match=printed):
        build_advantage(train_config(*override.split()).advantage)


@pytest.mark.parametrize(
    ("override", "printed"),
    [
        ("reward=q_hawkeye reward.terms.closeness.decay=0", "decay=0"),
        ("reward=q_hawkeye reward.terms.repetition.each=-1", "each=-1"),
        ("reward=unipercept reward.terms.closeness.sigma=0", "sigma=0"),
        ("reward=tatar reward.terms.closeness.growth=-1", "growth=-1"),
        ("reward=tatar reward.terms.words.most=-1", "most=-1"),
        ("reward=fidelity_overlong reward.terms.overlong.cache=0", "cache=0"),
    ],
)
def test_constants_of_rewards_out_of_range(override: str, printed: str) -> None:
    with pytest.raises(ConfigError, match=printed):
        build_rewards(train_config(*override.split()).reward)


def test_sets_without_what_a_reward_needs_are_named() -> None:
    config = config_of("reward=margin_sigma")

    def labelled(name: str, std: list[float]) -> Any:
        table = pd.DataFrame({"mos": [1.0, 3.0, 5.0], "std": std})
        return SimpleNamespace(
            key=f"dataset.parts.{name}", name=name, table=table, rows=lambda _: table,
            config=SimpleNamespace(mos_scale="minmax"),
        )  # fmt: skip

    with pytest.raises(ConfigError) as caught:
        check_labels(
            config, build_rewards(config.reward),
            [labelled("spaq", [math.nan] * 3), labelled("kadid", [0.5, 0.6, 0.7])],
        )  # fmt: skip
    assert caught.value.problems == [
        "dataset.parts.spaq: 3 of 3 training images of spaq have no std, and reward.terms.margin "
        "needs it; train without the set, or choose another reward"
    ]


class Wordy:
    """Ranks images and wants their texts."""

    ranks = True
    needs = ("texts",)

    def __call__(self, inputs: RewardInputs) -> Tensor:
        return inputs.scores


def test_a_reward_that_ranks_gets_no_texts() -> None:
    config = train_config()
    config.reward.terms["own"] = {"_target_": f"{__name__}.Wordy"}
    with pytest.raises(ConfigError, match=r"reward\.terms\.own: .*ranks=True.* needs texts"):
        build_rewards(config.reward)


class NeedsLogprobs:
    """Looks at sampler log-probabilities."""

    ranks = False
    needs = ("logprobs", "texts")

    def __call__(self, inputs: RewardInputs) -> Tensor:
        return inputs.scores


@pytest.mark.parametrize(
    ("lacking", "printed"),
    [
        ({"logprobs": None}, "reward.terms.length: needs sampler log-probabilities"),
        ({"texts": [[]] * B}, "rollout.engine: this engine gives no texts"),
    ],
)
def test_an_engine_without_texts_or_log_probabilities(
    lacking: dict[str, Any], printed: str, policy: Any
) -> None:
    module, engine = make_module(copy.deepcopy(policy), NeedsLogprobs())
    sample = engine.sample
    engine.sample = lambda *a, **k: replace(sample(*a, **k), **lacking)  # type: ignore[method-assign]
    with pytest.raises(ConfigError) as caught:
        fit(module, ranking_batch(), 1)
    (line,) = caught.value.problems
    assert line.startswith(printed)


def test_overlong_by_hand() -> None:
    # Of 10 tokens the last 4 cost: 6 -> 0, 8 -> -.5, 12 -> -1.
    yes = torch.ones(1, 3, dtype=torch.bool)
    inputs = RewardInputs(
        torch.zeros(1, 3), yes, yes, torch.ones(1), lengths=torch.tensor([[6, 8, 12]])
    )
    assert OverlongReward(10, 4)(inputs).tolist() == [[0.0, -0.5, -1.0]]
