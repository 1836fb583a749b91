"""Expected scores of forms other than tags, against probabilities written out token by token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vqr1.config import ModelConfig, read_choice, validate
from vqr1.errors import ModelError
from vqr1.iqa.answers import AnswerForm, BoxedAnswer, JsonAnswer, LevelAnswer
from vqr1.policy.families.qwen2_5_vl import FAMILY
from vqr1.policy.loading import Policy, load_policy
from vqr1.policy.prompt_state import Continuation, PromptState, continue_prompts
from vqr1.policy.prompts import PromptBuilder
from vqr1.policy.spelling_tree import spelling_tree
from vqr1.rollout.expected import expected_answers
from vqr1.rollout.local import LocalEngine

pytestmark = pytest.mark.medium

STEM = "The quality of the image is"
NEAR_ONE = (1.0, 1.04)
"""Accepted from .99 to 1.05: nine numbers of at most two decimals."""
NUMBERS = ["0.99", "1", "1.0", *(f"1.0{d}" for d in range(6))]


@pytest.fixture(scope="module")
def asked() -> tuple[Policy, LocalEngine, Any, PromptState]:
    config = validate(ModelConfig, read_choice("model", "tiny", "model"))
    policy = load_policy(config)
    builder = PromptBuilder(
        FAMILY, policy.processor, "How good is it?", config.min_pixels, config.max_pixels,
        vision_id=False,
    )  # fmt: skip
    noise = np.random.default_rng(0).integers(0, 255, (112, 112, 3), dtype=np.uint8)
    prompts = builder([Image.fromarray(noise)])
    engine = LocalEngine(policy.model, policy.processor.tokenizer, 10**6)
    ((_, state),) = engine.read_turns(prompts, 96)
    return policy, engine, prompts, state


@torch.no_grad()
def following(policy: Policy, state: PromptState, text: str) -> tuple[list[int], torch.Tensor]:
    """The tokens of a response, and [C + 1, vocabulary] probabilities before and after each."""
    tokens = policy.processor.tokenizer.encode(text, add_special_tokens=False)
    count = len(tokens)
    hidden = continue_prompts(
        policy.model,
        torch.tensor(tokens),
        state.next_positions + torch.arange(count),
        Continuation(state, torch.ones(count, count).tril().bool()[None, None], None),
    )
    rows = torch.cat([state.last_hidden, hidden])
    return tokens, policy.model.lm_head(rows).double().softmax(dim=-1)


def written_out(
    policy: Policy, state: PromptState, begun: str, scores: dict[str, float], ends: tuple[str, ...]
) -> tuple[float, float]:
    """Mean and mass by the probability of every score's own tokens and of what may follow."""
    tokenizer = policy.processor.tokenizer
    texts = [tokenizer.decode([token]) for token in range(len(tokenizer))]
    closing = [number for number, text in enumerate(texts) if ends and text.startswith(ends)]
    opening = tokenizer.encode(begun, add_special_tokens=False)
    tail = tokenizer.decode([opening[-1]])
    alike = [number for number, text in enumerate(texts) if text.startswith(tail)]
    weights = []
    for score in scores:
        tokens, p = following(policy, state, begun + score)
        assert tokens[: len(opening)] == opening
        last = len(opening) - 1
        weight = float(p[last, tokens[last]] / p[last, alike].sum())
        for place in range(len(opening), len(tokens)):
            weight *= float(p[place, tokens[place]])
        weights.append(weight * (float(p[-1, closing].sum()) if ends else 1.0))
    mass = sum(weights)
    return float(np.average(list(scores.values()), weights=weights)), mass


@pytest.mark.parametrize(
    ("form", "begun", "ends"),
    [
        (JsonAnswer(score_range=NEAR_ONE), '{"rating":', ("}", ",", "\n")),
        (BoxedAnswer(thinks=False, score_range=NEAR_ONE), "\\boxed{", ("}",)),
    ],
)
def test_numbers_of_other_forms(
    asked: tuple[Policy, LocalEngine, Any, PromptState],
    form: AnswerForm,
    begun: str,
    ends: tuple[str, ...],
) -> None:
    policy, engine, prompts, state = asked
    scores = {text: float(text) for text in NUMBERS}
    if form.spaced:
        scores |= {f" {text}": float(text) for text in NUMBERS}
    mean, mass = written_out(policy, state, begun, scores, ends)
    found = expected_answers(engine, prompts, reasoning=None, form=form)
    assert float(1 - found.lost) == pytest.approx(mass, rel=1e-4)
    # The packaged policy gives such numbers little probability: the answer is then invalid.
    assert bool(torch.isnan(found.score)) == (mass < 0.5)
    assert 0.99 <= mean <= 1.05


def test_words_are_compared_with_each_other_alone(
    asked: tuple[Policy, LocalEngine, Any, PromptState],
) -> None:
    policy, engine, prompts, state = asked
    levels = {"excellent": 5.0, "quality": 3.0, "poor": 1.0}
    form = LevelAnswer(levels=levels, stem=STEM)
    mean, mass = written_out(
        policy, state, STEM, {f" {word}": score for word, score in levels.items()}, ()
    )
    found = expected_answers(engine, prompts, reasoning=None, form=form)
    assert float(found.score) == pytest.approx(mean, abs=1e-5)
    assert float(1 - found.lost) == pytest.approx(mass, rel=1e-3)


def test_a_word_of_two_tokens_is_refused_in_one_line(
    asked: tuple[Policy, LocalEngine, Any, PromptState],
) -> None:
    with pytest.raises(ModelError) as refused:
        spelling_tree(asked[0].processor.tokenizer, LevelAnswer(stem=STEM))
    assert str(refused.value).startswith(
        "mode=expected, answer.levels: 'good' is not one token of this model's tokenizer"
    )
    assert "\n" not in str(refused.value)
