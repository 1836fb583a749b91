"""Responses of every family, against its own class.

Greedy ones are those of `generate`, sampled ones fit its probabilities, expected scores are sums
over all numbers, and what is exported is the same model.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.policy.families.cases import FamilyCase
from tests.policy.families.library import (
    own_inputs,
    own_logits,
    own_logprobs,
    own_responses,
    prompts_of,
)
from tests.support.brute_numbers import write_out
from vqr1.config import LoraConfig, ModelConfig, SamplingConfig
from vqr1.iqa.answers import TaggedAnswer, accepted_range
from vqr1.policy.expected_score import expected_scores
from vqr1.policy.export import export_checkpoint
from vqr1.policy.loading import Policy, load_policy
from vqr1.policy.prompt_state import read_prompts
from vqr1.policy.shared_prompt import pack_prompts
from vqr1.policy.unwrap import unwrap
from vqr1.policy.vision import encode_images
from vqr1.rollout.local import LocalEngine
from vqr1.rollout.stopping import banned_tokens, end_tokens

pytestmark = pytest.mark.medium

LARGE = 10**6
NOTHING = torch.empty(0, dtype=torch.int64)


def tokens_of(policy: Policy) -> tuple[list[int], list[int]]:
    """Tokens that end a response, and those that none may hold."""
    tokenizer = policy.processor.tokenizer
    ends = end_tokens(tokenizer, policy.family.end_of_turn)
    vocabulary = unwrap(policy.model).config.get_text_config().vocab_size
    return sorted(ends), banned_tokens(tokenizer, ends, vocabulary)


@pytest.mark.parametrize("images", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_greedy_equals_generate_token_for_token(
    case: FamilyCase, policy: Policy, images: int
) -> None:
    model, limit = policy.model, 10
    prompts = prompts_of(case, policy, images).select(0, 4 - images)
    greedy = SamplingConfig(temperature=0.0, max_new_tokens=limit)
    engine = LocalEngine(model, policy.processor.tokenizer, LARGE)
    found = engine.sample(prompts, group_size=1, sampling=greedy, seed=0)
    rows = own_inputs(case, policy, prompts)
    ends, banned = tokens_of(policy)
    expected = own_responses(model, rows, limit=limit, ends=ends, banned=banned)
    ours = [row[0][real[0]].tolist() for row, real in zip(found.tokens, found.mask, strict=True)]
    assert ours == expected
    with torch.no_grad():
        own = own_logprobs(model, rows, found.tokens, found.mask, 1.0)
    torch.testing.assert_close(found.logprobs, own, rtol=1e-5, atol=2e-5)


def test_sampled_tokens_fit_the_familys_probabilities(case: FamilyCase, policy: Policy) -> None:
    """Chi-square of first tokens, and of second tokens given the commonest first one."""
    temperature = 0.7
    prompts = prompts_of(case, policy).select(0, 1)
    sampling = SamplingConfig(max_new_tokens=2, temperature=temperature)
    rollout = LocalEngine(policy.model, policy.processor.tokenizer, LARGE).sample(
        prompts, group_size=3000, sampling=sampling, seed=11
    )
    (inputs,) = own_inputs(case, policy, prompts)
    _, banned = tokens_of(policy)
    first = rollout.tokens[0, :, 0]
    common = int(first.mode().values)
    with torch.no_grad():
        logits = own_logits(policy.model, inputs, torch.tensor([common]))
    for tokens, own in ((first, logits[0]), (rollout.tokens[0, first == common, 1], logits[1])):
        own = own.double() / temperature
        own[banned] = -torch.inf
        probabilities = own.softmax(dim=-1).numpy()
        counts = np.bincount(tokens.numpy(), minlength=len(probabilities))
        assert counts[banned].sum() == 0
        expected = probabilities * counts.sum()
        # Tokens that are too rare for the test are counted together with their neighbours.
        bins = np.floor(np.cumsum(expected) / max(10.0, counts.sum() / 40)).astype(int)
        observed, expected = (np.bincount(bins, weights=x) for x in (counts, expected))
        observed, expected = observed[expected > 0], expected[expected > 0]
        assert len(observed) >= 3
        assert stats.chisquare(observed, expected).pvalue > 0.001


NUMERIC, LIKELY = set("-.0123456789<>/"), set("01.</")


@contextmanager
def fond_of_numbers(model: Any, tokenizer: Any) -> Iterator[None]:
    """Makes pieces of numbers and tags likely, for whoever asks the output head."""
    known = tokenizer.get_vocab().items()
    pieces = [number for text, number in known if set(text) <= NUMERIC]
    likely = [number for text, number in known if set(text) <= LIKELY]

    def raised(_: Any, __: Any, logits: Tensor) -> Tensor:
        logits = logits.clone()
        logits[..., pieces] += 12.0
        logits[..., likely] += 6.0
        return logits

    handle = model.lm_head.register_forward_hook(raised)
    try:
        yield
    finally:
        handle.remove()


def test_expected_scores_equal_brute_force(case: FamilyCase, policy: Policy) -> None:
    """Every way to write every number, each after a full row of the family's own pass."""
    model, tokenizer = copy.deepcopy(policy.model).double(), policy.processor.tokenizer
    scale, beginning = (1.0, 1.08), "<answer>"
    form = TaggedAnswer(score_range=scale)
    prompts = prompts_of(case, policy).select(1, 2)
    (inputs,) = own_inputs(case, policy, prompts)
    with fond_of_numbers(model, tokenizer), torch.no_grad():
        state = read_prompts(model, pack_prompts(model, prompts, encode_images(model, prompts)))
        found = expected_scores(model, tokenizer, state, [beginning], form)
        written = write_out(tokenizer, *accepted_range(scale))
        begun = tokenizer.encode(beginning, add_special_tokens=False)[:-1]
        after: dict[tuple[int, ...], Tensor] = {}
        for path in sorted({path[:-1] for path in written.paths}, key=len, reverse=True):
            if path not in after:
                logits = own_logits(model, inputs, torch.tensor([*begun, *path]))[len(begun) :]
                rows = logits.log_softmax(dim=-1)
                after |= {path[:size]: row for size, row in enumerate(rows) if size <= len(path)}
    given = float(after[()][written.starts].exp().sum())
    shares = [
        math.exp(sum(float(after[path[:n]][token]) for n, token in enumerate(path))) / given
        for path in written.paths
    ]
    mass = sum(shares)
    mean = sum(s * value for s, value in zip(shares, written.values, strict=True)) / mass
    assert mass > 1e-4
    assert float(found.mass) == pytest.approx(mass, rel=1e-5)
    assert float(found.score) == pytest.approx(mean, abs=1e-6)


def test_an_export_is_the_same_model_in_plain_transformers(
    case: FamilyCase, policy: Policy, model_config: ModelConfig, tmp_path: Path
) -> None:
    """Adapters merged, weights changed, side files as they were."""
    config = copy.deepcopy(model_config)
    config.lora = LoraConfig(rank=2, alpha=8)
    trained = load_policy(config)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, weight in trained.model.named_parameters():
            if "lora_" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    folder = export_checkpoint(trained, tmp_path / "export")
    loaded = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    assert type(loaded).__name__ == policy.family.architecture
    again = Policy(loaded, AutoProcessor.from_pretrained(folder), str(folder))
    prompts = prompts_of(case, policy)
    for ours, theirs in zip(
        own_inputs(case, trained, prompts), own_inputs(case, again, prompts), strict=True
    ):
        with torch.no_grad():
            expected = own_logits(trained.model, ours, NOTHING)
            found = own_logits(loaded, theirs, NOTHING)
            untrained = own_logits(policy.model, ours, NOTHING)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * case.rounding)
        assert (untrained - expected).abs().max() > 0.01
    source = Path(str(model_config.path))
    sides = [file for file in source.iterdir() if file.suffix in (".json", ".jinja", ".txt")]
    assert sides
    assert all((folder / file.name).read_bytes() == file.read_bytes() for file in sides)
