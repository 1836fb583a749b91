"""The prompt in the code of model cards, and the code of a prompt about several images."""

from __future__ import annotations

from typing import Any

import pytest

from vqr1.iqa.answers import (
    PUBLISHED,
    AnswerForm,
    BoxedAnswer,
    JsonAnswer,
    LevelAnswer,
    PlainAnswer,
    RatingsAnswer,
    TaggedAnswer,
)
from vqr1.policy.chat_content import chat_content, chat_messages
from vqr1.policy.families import FAMILIES, family
from vqr1.policy.families._card_prompt import prompt_constants
from vqr1.policy.model_card import CardFacts, model_card

TEXT = 'Here is <image>,  and\there is "<image>":\n' + 40 * "which of these is better? " + " "


def facts_of(name: str, **changes: Any) -> CardFacts:
    values: dict[str, Any] = {
        "family": family(name, "the model"), "title": "a", "base": "b", "base_is_hub_name": False,
        "license": None, "datasets": ["demo"], "rewards": ["fidelity"], "prompt_name": "thinking",
        "prompt": "How?", "vision_id": True, "answer": PUBLISHED, "asking": ["prompt=thinking"],
        "min_pixels": 3136, "max_pixels": 12544, "max_new_tokens": 9, "metrics": [],
        "config_yaml": "a: 1", "version": "0",
    }  # fmt: skip
    return CardFacts(**(values | changes))


@pytest.mark.parametrize("system", [None, "Compare " + 30 * "two images. "])
@pytest.mark.parametrize(("text", "images"), [("How?", 1), (TEXT, 2), ("  ", 4)])
def test_the_constants_are_the_prompt(text: str, images: int, system: str | None) -> None:
    facts = facts_of("qwen2_5_vl", prompt=text, images=images, system=system)
    found: dict[str, Any] = {}
    code = prompt_constants(facts)
    exec(code, found)
    assert max(map(len, code.splitlines())) <= 100
    assert found["CONTENT"] == chat_content(text, images)
    user = {"role": "user", "content": found["CONTENT"]}
    assert [*found["SYSTEM"], user] == chat_messages(chat_content(text, images), system)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_card_about_several_images(name: str) -> None:
    facts = facts_of(name, prompt=TEXT, images=2, system="Compare.")
    compile(facts.family.usage_code(facts), "card", "exec")
    card = model_card(facts)
    assert 'print(answers([["image_1.png", "image_2.png"]]))' in card
    # That command asks about one image at a time.
    assert "vqr1-score" not in card
    single = model_card(facts_of(name))
    assert 'print(answers([["photo.png"]]))' in single
    assert "vqr1-score photos/" in single


WORDS = "one of 5 words from `bad` (1) to `excellent` (5)."


@pytest.mark.parametrize(
    ("form", "score", "mode"),
    [
        (PUBLISHED, "The score is the number between `<answer>` and `</answer>`.", "expected"),
        (BoxedAnswer(), "The score is the number between `\\boxed{` and `}`.", "expected"),
        (JsonAnswer(), 'The score is the number after `"rating":`.', "expected"),
        (LevelAnswer(stem="It is"),
         f"The score is what the word after `It is` stands for, {WORDS}", "expected"),
        (LevelAnswer(), f"The score is what the word stands for, {WORDS}", "greedy"),
        (PlainAnswer(), "The answer is the score: one number and nothing else.", "greedy"),
        (RatingsAnswer(names=("light", "noise")),
         "The score is the mean of the answer's 2 ratings.", "greedy"),
        (JsonAnswer(key="a.b"), "The score is what `JsonAnswer` of vqr1 reads from the answer.",
         "greedy"),
    ],
)  # fmt: skip
def test_a_card_states_what_the_score_is(form: AnswerForm, score: str, mode: str) -> None:
    card = model_card(facts_of("qwen2_5_vl", answer=form))
    assert f"\n{score}\n" in card
    assert (" mode=greedy \\\n" in card) is (mode == "greedy")
    assert ("and with an uncertainty" in card) is (mode == "expected")
    assert ("\n- The reasoning is the model's text" in card) is form.reasons
    assert ("a score may leave the range 1 to 5." in card) is (not form.levels)


def test_a_card_states_the_scale_that_was_asked_for() -> None:
    card = model_card(facts_of("qwen2_5_vl", answer=TaggedAnswer(score_range=(0, 100))))
    assert "as a number from 0 (very poor) to 100 (excellent)" in card
    assert "a score may leave the range 0 to 100." in card
    assert "1 to 5" not in card


def test_a_form_of_no_packaged_class_has_no_command() -> None:
    assert "vqr1-score" not in model_card(facts_of("qwen2_5_vl", asking=None))
