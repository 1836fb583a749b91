"""The prompt in the code of model cards, and the code of a prompt about several images."""

from __future__ import annotations

from typing import Any

import pytest

from vqr1.policy.chat_content import chat_content, chat_messages
from vqr1.policy.families import FAMILIES, family
from vqr1.policy.families._card_prompt import prompt_constants
from vqr1.policy.model_card import CardFacts, model_card

TEXT = 'Here is <image>,  and\there is "<image>":\n' + 40 * "which of these is better? " + " "


def facts_of(name: str, **changes: Any) -> CardFacts:
    values: dict[str, Any] = {
        "family": family(name, "the model"), "title": "a", "base": "b", "base_is_hub_name": False,
        "license": None, "datasets": ["demo"], "rewards": ["fidelity"], "prompt_name": "thinking",
        "prompt": "How?", "vision_id": True, "score_range": (1, 5), "min_pixels": 3136,
        "max_pixels": 12544, "max_new_tokens": 9, "metrics": [], "config_yaml": "a: 1",
        "version": "0",
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
