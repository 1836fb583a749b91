"""Expected scores from reported tokens, by hand and against the exact ones of a policy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vqr1.config import ModelConfig, PromptConfig, SamplingConfig, read_choice, validate
from vqr1.iqa.answers import TaggedAnswer
from vqr1.policy.families.qwen2_5_vl import FAMILY
from vqr1.policy.loading import Policy, load_policy
from vqr1.policy.prompt_state import Continuation, PromptState, continue_prompts
from vqr1.policy.prompts import PromptBuilder
from vqr1.policy.top_logprobs import ReportedToken, expected_from_tokens
from vqr1.rollout.expected import expected_answers
from vqr1.rollout.local import LocalEngine

pytestmark = pytest.mark.medium


def token(text: str, **alternatives: float) -> ReportedToken:
    """A token with probabilities; `_1` names the digit 1, `_` the point, `_e` the closing tag."""
    names = {"_": ".", "_e": "</", "_m": "-"}
    places = {names.get(name, name[1:]): math.log(p) for name, p in alternatives.items()}
    return ReportedToken(text, places or {text: 0.0})


OPENING = [token(piece) for piece in ("<think>", "a <answer> b", "</think>", "<", "answer", ">")]


def test_all_numbers_written_out() -> None:
    tokens = [
        *OPENING,
        token("4", _3=0.3, _4=0.6, _9=0.05),
        token(".", _=0.9, _e=0.08),
        token("1", _1=0.7, _5=0.2),
        token("0", _0=0.5, _9=0.4, _e=0.06),
        token("</", _e=0.95),
        token("answer"),
        token(">"),
    ]
    # 9 lies beyond 0 to 6. Of each other first digit: .08 ends there; after the point 1 (.7) or
    # 5 (.2), each of which ends with .06 or continues to 0 (.5) or 9 (.4), which end with .95.
    numbers, weights = [], []
    for d, p in ((3, 0.3), (4, 0.6)):
        numbers.append(d)
        weights.append(p * 0.08)
        for e, q in ((1, 0.7), (5, 0.2)):
            numbers.append(d + e / 10)
            weights.append(p * 0.9 * q * 0.06)
            for f, r in ((0, 0.5), (9, 0.4)):
                numbers.append(d + e / 10 + f / 100)
                weights.append(p * 0.9 * q * r * 0.95)
    mean = np.average(numbers, weights=weights)
    std = math.sqrt(np.average((np.array(numbers) - mean) ** 2, weights=weights))
    found = expected_from_tokens(tokens)
    assert found.score == pytest.approx(mean, abs=1e-12)
    assert found.std == pytest.approx(std, abs=1e-12)
    # .9 (.08 + .9 .9 (.06 + .9 .95)) = .9 (.08 + .81 .915) = .9 .82115 = .739035
    assert sum(weights) == pytest.approx(0.739035)
    assert found.lost == pytest.approx(1 - 0.739035)


def test_an_answer_that_ends_with_its_first_digit() -> None:
    # (4 * .5 + 2 * .25) / .75 = 10/3; deviation sqrt(2/3 * 1/3) * 2; lost 1 - .75.
    found = expected_from_tokens([*OPENING, token("4", _4=0.5, _2=0.25), token("</")])
    assert found.score == pytest.approx(10 / 3)
    assert found.std == pytest.approx(2 * math.sqrt(2) / 3)
    assert found.lost == pytest.approx(0.25)


def test_a_first_digit_0_is_a_number_like_others() -> None:
    # 0.85 with .45 and 1.85 with .55: .45 .85 + .55 1.85 = 1.40, not 1.85.
    tokens = [*OPENING, *(token(t) for t in (".", "8", "5", "</"))]
    tokens.insert(len(OPENING), token("1", _0=0.45, _1=0.55))
    assert expected_from_tokens(tokens).score == pytest.approx(1.40)
    # With .55 for 0: .55 .85 + .45 1.85 = 1.30, where nothing was valid before.
    tokens[len(OPENING)] = token("0", _0=0.55, _1=0.45)
    assert expected_from_tokens(tokens).score == pytest.approx(1.30)


def test_places_of_the_written_number_stand_in_for_others() -> None:
    # 0 to 100, "85" was written. 7 is one digit like "8": .3 end, .7 another digit 5, which ends.
    # 8 ends with .3 and continues to 85 with .7.  E = .6 (.3 8 + .7 85) + .4 (.3 7 + .7 75)
    # = .6 61.9 + .4 54.6 = 58.98.
    tokens = [*OPENING, token("8", _8=0.6, _7=0.4), token("5", _5=0.7, _e=0.3), token("</")]
    found = expected_from_tokens(tokens, TaggedAnswer(score_range=(0.0, 100.0)))
    assert found.score == pytest.approx(58.98)
    assert found.lost == pytest.approx(0.0)
    # "9" was written, 1 continues to 10 (.5): two digits were never written, so "10" ends as "9"
    # does, with .5; what else would follow, a third digit 0 (.5), is no number up to 125 but 100,
    # which ends with .5 again, and its 0 leads beyond.
    tokens = [*OPENING, token("9", _9=0.8, _1=0.2), token("</", _e=0.5, _0=0.5)]
    found = expected_from_tokens(tokens, TaggedAnswer(score_range=(0.0, 100.0)))
    # 9: .8 .5; 90: .8 .5 .5; 1: .2 .5; 10: .2 .25; 100: .2 .125
    weights = {9: 0.4, 90: 0.2, 1: 0.1, 10: 0.05, 100: 0.025}
    mass = sum(weights.values())
    assert found.score == pytest.approx(sum(n * w for n, w in weights.items()) / mass)
    assert found.lost == pytest.approx(1 - mass)


def test_a_sign_that_is_one_with_the_tag() -> None:
    opening = [*OPENING[:-1], ReportedToken(">-", {">-": math.log(0.6), ">": math.log(0.2)})]
    # Given that the tag ends, ">-" has .75. "-2" ends: -2 with .75; without a sign the same digit
    # stands in: 2 with .25. E = -1.
    found = expected_from_tokens(
        [*opening, token("2"), token("</")], TaggedAnswer(score_range=(0.0, 10.0))
    )
    assert found.score == pytest.approx(-1.0)
    assert found.lost == pytest.approx(0.0)
    # 1 to 5 knows no sign: nothing after it is known, and all is lost.
    found = expected_from_tokens([*opening, token("2"), token("</")])
    assert (found.score, found.std) == (None, None)
    assert found.lost == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("tokens", "lost"),
    [
        ([], None),
        ([token("<answer>")], 1.0),
        ([token("no tag"), token("4", _4=1.0)], None),
        ([token("<answer>4"), token(".", _=1.0)], 1.0),  # nothing ends
        ([*OPENING, token("x", _4=0.4), token("</")], 1.0),  # what follows a 4 is not known
        ([*OPENING, token("4", _4=0.4), token("</")], 0.6),
        ([*OPENING, token("4", _4=1.0), token("2", _2=0.6, _e=0.4)], 0.6),  # 42 is no score
        ([*OPENING, token("x")], 1.0),
        ([*OPENING, token("")], 1.0),
    ],
)
def test_no_expectation(tokens: list[ReportedToken], lost: float | None) -> None:
    found = expected_from_tokens(tokens)
    assert (found.score, found.std) == (None, None)
    assert found.lost == (None if lost is None else pytest.approx(lost))


@torch.no_grad()
def reported(policy: Policy, state: PromptState, texts: list[str]) -> list[list[ReportedToken]]:
    """What a server would report of texts, as the answers to prompts that were read: 20 a place."""
    tokenizer: Any = policy.processor.tokenizer
    found = []
    for image, text in enumerate(texts):
        tokens = torch.tensor(tokenizer.encode(text, add_special_tokens=False))
        alone = state.select([image])
        hidden = continue_prompts(
            policy.model,
            tokens,
            alone.next_positions + torch.arange(len(tokens)),
            Continuation(
                alone, torch.ones(len(tokens), len(tokens)).tril().bool()[None, None], None
            ),
        )
        before = torch.cat([alone.last_hidden, hidden[:-1]])
        top = policy.model.lm_head(before).log_softmax(dim=-1).topk(20)
        rows = zip(tokens.tolist(), top.indices.tolist(), top.values.tolist(), strict=True)
        found.append(
            [
                ReportedToken(
                    tokenizer.decode([token]),
                    {tokenizer.decode([n]): p for n, p in zip(numbers, values, strict=True)},
                )
                for token, numbers, values in rows
            ]
        )
    return found


@pytest.mark.parametrize("name", ["thinking", "non_thinking"])
def test_error_against_the_exact_expectation(name: str) -> None:
    config = validate(ModelConfig, read_choice("model", "tiny", "model"))
    prompt = validate(PromptConfig, read_choice("prompt", name, "prompt"))
    policy = load_policy(config)
    builder = PromptBuilder(
        FAMILY, policy.processor, prompt.text, config.min_pixels, config.max_pixels, vision_id=False
    )
    rng = np.random.default_rng(0)
    images = []
    for number in range(12):
        y, x = np.mgrid[0:112, 0:112]
        clean = 127 + 90 * np.stack([np.sin(x / (5 + number)), np.cos(y / 9), np.sin(x / 13)], -1)
        noisy = clean + rng.normal(0, 8 * number, clean.shape)
        images.append(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)))
    prompts = builder(images)
    engine = LocalEngine(policy.model, policy.processor.tokenizer, 10**6)
    greedy = SamplingConfig(temperature=0.0, max_new_tokens=96, stop="answer")
    exact = expected_answers(
        engine, prompts, reasoning=greedy if name == "thinking" else None
    ).score.numpy()
    ((_, state),) = engine.read_turns(prompts, 96)
    texts = [
        text for (text,) in engine.sample(prompts, group_size=1, sampling=greedy, seed=0).texts
    ]
    found = [expected_from_tokens(tokens) for tokens in reported(policy, state, texts)]
    errors = np.array([e.score for e in found], dtype=np.float64) - exact
    # Measured: .084 on average and .094 at most, the numbers' standard deviation being .68.
    assert np.abs(errors).max() < 0.12
    assert max(e.lost or 0.0 for e in found) < 0.05
