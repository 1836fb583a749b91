"""Synthetic pairs and the warm start: what is taught, from which photographs, and that it takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from tests.tools.test_tiny_policy import SMALL
from tools.tiny_policy import synthetic
from tools.tiny_policy.factory import build_processor, build_tokenizer, random_tiny_model
from tools.tiny_policy.synthetic import (
    CLEAN,
    CLEAN_MOS,
    GREY_PHOTOGRAPHS,
    AnswerStyle,
    corpus,
    make_pool,
    mos,
    response,
    sentence,
)
from tools.tiny_policy.warm_start import (
    AnswerWriter,
    WarmStartSettings,
    cosine_patches,
    warm_start,
)
from vqr1.data.demo import PHOTOGRAPHS, Photograph, load_photograph, stream
from vqr1.data.distortions import DISTORTIONS, LEVELS, Pixels
from vqr1.iqa.answers import PUBLISHED, TaggedAnswer
from vqr1.policy.shared_prompt import response_logprobs
from vqr1.records import PromptBatch

PROMPTS = {"thinking": "Think and rate.", "non_thinking": "Rate.", "describe": "Describe."}


@pytest.mark.medium
def test_pool_never_draws_on_validation_or_test_photographs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: set[str] = set()

    def watched(photograph: Photograph, short_edge: int) -> Pixels:
        seen.add(photograph.name)
        return load_photograph(photograph, short_edge)

    monkeypatch.setattr(synthetic, "load_photograph", watched)
    pool = make_pool(4, seed=1)
    training = {p.name for p in PHOTOGRAPHS if p.split == "train"}
    assert seen == training | {p.name for p in GREY_PHOTOGRAPHS}
    assert not seen & {p.name for p in PHOTOGRAPHS if p.split != "train"}
    assert pool.pixels.shape == (4, 112, 112, 3)


@pytest.mark.medium
def test_pool_is_a_function_of_its_seed() -> None:
    first, again, other = make_pool(6, 1), make_pool(6, 1), make_pool(6, 2)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    assert not np.array_equal(first.pixels, other.pixels)
    assert set(first.levels[first.types == CLEAN]) <= {0}
    assert set(first.levels[first.types != CLEAN]) <= set(LEVELS)


def test_sentences_name_damage_and_severity() -> None:
    rng = stream("tests", "sentence")
    blur = next(i for i, d in enumerate(DISTORTIONS) if d.words == "motion blur")
    printed = {sentence(blur, 4, rng) for _ in range(60)}
    assert len(printed) == 4
    assert all("strong motion blur" in text for text in printed)
    assert all("no damage" in sentence(CLEAN, 0, rng) for _ in range(5))


def test_answers_have_the_asked_form_as_often_as_the_style_states() -> None:
    rng, style = stream("tests", "form"), AnswerStyle(format_compliant=0.8)
    texts = [response("thinking", 2, 3, style, rng) for _ in range(2000)]
    share = np.mean([PUBLISHED.parse(text).format_compliant for text in texts])
    # One of the five broken forms only spoils the number, so 80 % + 20 % / 5 = 84 % keep the form;
    # standard error sqrt(.84 * .16 / 2000) = .008.
    assert share == pytest.approx(0.84, abs=0.03)
    plain = [response("non_thinking", 2, 3, style, rng) for _ in range(50)]
    assert all(TaggedAnswer().parse(text).format_compliant for text in plain)
    assert all(
        PUBLISHED.parse(text).score is None for text in (response("describe", 2, 3, style, rng),)
    )


def test_scores_carry_the_trace_that_the_style_states() -> None:
    rng = stream("tests", "trace")
    style = AnswerStyle(slope=0.2, std=0.4)
    means = {}
    for level in (1, 5):
        texts = [response("non_thinking", 0, level, style, rng) for _ in range(1500)]
        scores = np.array([TaggedAnswer().parse(text).score for text in texts], dtype=float)
        assert scores.std() == pytest.approx(0.4, rel=0.1)
        means[level] = scores.mean()
    # Blur goes from 4.4 to 1.2; a fifth of the 3.2 is .64. Standard error .4 sqrt(2 / 1500) = .015.
    assert means[1] - means[5] == pytest.approx(0.64, abs=0.06)


def test_reasoning_is_as_true_as_the_style_states() -> None:
    rng = stream("tests", "truth")
    texts = [response("describe", 3, 2, AnswerStyle(truthful=0.7), rng) for _ in range(2000)]
    share = np.mean([" mild noise" in text for text in texts])
    # A guess hits type and level by chance once in 10 x 5: .7 + .3 / 50 = .706.
    assert share == pytest.approx(0.706, abs=0.035)


def test_a_clean_crop_is_worth_more_than_any_damaged_one() -> None:
    assert mos(CLEAN, 0) == CLEAN_MOS
    assert all(d.mildest < CLEAN_MOS for d in DISTORTIONS)


def test_cosine_filters_are_orthogonal_and_of_unit_norm_over_both_frames() -> None:
    filters = cosine_patches(128)
    assert filters.shape == (128, 3, 2, 14, 14)
    assert torch.equal(filters[:, :, 0], filters[:, :, 1])
    # A still image repeats its patch in both frames, so the sum over frames is what it meets.
    still = filters.sum(dim=2)
    kind = torch.cat([torch.zeros(96), torch.tensor([1, 2]).repeat(16)])
    gram = torch.einsum("acyx,bcyx->ab", still, still)
    same = kind[:, None] == kind[None, :]
    torch.testing.assert_close(gram[same], torch.eye(128)[same], atol=1e-5, rtol=0)
    # Filter 0 is the mean brightness: on a patch of ones, 14 * sum of the unit colour axis.
    axis = torch.tensor([0.299, 0.587, 0.114])
    expected = 14 * float(axis.sum() / axis.norm())
    assert float(still[0].sum()) == pytest.approx(expected, rel=1e-5)


def test_answers_are_short() -> None:
    texts = corpus(PROMPTS)
    tokenizer = build_tokenizer(texts)
    answers = [t for t in texts if "<answer>" in t and "<think>" in t]
    lengths = [len(tokenizer(text).input_ids) for text in answers]
    assert np.mean(lengths) <= 24
    assert max(lengths) <= 32


@pytest.mark.medium
def test_a_few_steps_teach_the_form() -> None:
    tokenizer = build_tokenizer(corpus(PROMPTS))
    processor = build_processor(tokenizer)
    model = random_tiny_model(tokenizer, SMALL, seed=1)
    pool = make_pool(16, 1)
    settings = WarmStartSettings(
        pool=16, vision_steps=2, vision_batch=8, answer_steps=25, answer_batch=8, answers=2
    )
    writer = AnswerWriter(processor, PROMPTS, AnswerStyle(), stream("tests", "writer"))
    ids, tokens, mask = writer.write(
        torch.from_numpy(pool.types[:8]), torch.from_numpy(pool.levels[:8]), 2
    )
    batch = PromptBatch(ids, tuple((image,) for image in torch.from_numpy(pool.pixels[:8])))
    assert tokenizer.decode(tokens[0, 0][mask[0, 0]].tolist()).endswith("<|im_end|>")

    def loss() -> float:
        with torch.no_grad():
            logprobs = response_logprobs(model, batch, tokens, mask).logprobs
        return float(-logprobs.sum() / mask.sum())

    torch.manual_seed(4)
    state, before = torch.get_rng_state(), loss()
    with Progress(console=Console(quiet=True)) as progress:
        warm_start(model, processor, PROMPTS, pool, settings, progress)
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
    # Fresh weights start at or above the uniform distribution's log(vocabulary), about 6.3.
    assert before > 5.0
    assert loss() < 0.6 * before
