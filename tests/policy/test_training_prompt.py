"""What a checkpoint's folder records of the prompt of its training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vqr1.config import ModelConfig, PromptConfig
from vqr1.errors import ModelError
from vqr1.policy.training_prompt import (
    PROMPT_FILE,
    prompt_notes,
    trained_vision_id,
    vision_id_note,
    vision_id_of,
    write_training_prompt,
)

TINY = ModelConfig(name="tiny", path=None, min_pixels=3136, max_pixels=12544)
PROMPT = PromptConfig(name="thinking", text="How good?")
OLD_CARD = "---\ntags:\n- image-quality-assessment\n- vqr1\n---\n add_vision_id=True\n"


def checkpoint(folder: Path) -> ModelConfig:
    return replace(TINY, path=str(folder))


def test_the_packaged_policy_is_asked_as_the_published_one() -> None:
    assert trained_vision_id(TINY) is False
    assert vision_id_of(PROMPT, TINY) is False
    assert vision_id_of(replace(PROMPT, vision_id=True), TINY) is True


@pytest.mark.parametrize("value", [False, True])
def test_a_record_counts_and_an_explicit_value_wins(tmp_path: Path, value: bool) -> None:
    write_training_prompt(tmp_path, value)
    # The record outweighs a card beside it.
    (tmp_path / "README.md").write_text(OLD_CARD)
    assert trained_vision_id(checkpoint(tmp_path)) is value
    assert vision_id_of(PROMPT, checkpoint(tmp_path)) is value
    assert vision_id_of(replace(PROMPT, vision_id=not value), checkpoint(tmp_path)) is not value


def test_a_card_of_before_counts_as_on_and_no_other_card_does(tmp_path: Path) -> None:
    model = checkpoint(tmp_path)
    assert trained_vision_id(model) is None
    # Other models' pages show the option too; their training may not have had it.
    (tmp_path / "README.md").write_text("text = apply_chat_template(x, add_vision_id=True)\n")
    assert trained_vision_id(model) is None
    assert vision_id_of(PROMPT, model) is False
    (tmp_path / "README.md").write_text(OLD_CARD)
    assert vision_id_of(PROMPT, model) is True


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"vision_id": 1}', '{"vision_id": "true"}'])
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / PROMPT_FILE).write_text(text)
    with pytest.raises(ModelError, match=PROMPT_FILE):
        trained_vision_id(checkpoint(tmp_path))


def test_other_images_and_system_messages_than_the_trainings_are_stated(tmp_path: Path) -> None:
    model, own = checkpoint(tmp_path), replace(PROMPT, images=2, system="Compare.")
    assert prompt_notes(own, model) == []
    write_training_prompt(tmp_path, False, own.images, own.system)
    assert prompt_notes(own, model) == []
    assert prompt_notes(PROMPT, model) == [
        "note: the policy was trained with prompt.images=2, it is asked with prompt.images=1",
        "note: the policy was trained with prompt.system='Compare.', it is asked with "
        "prompt.system=null",
    ]
    # Versions before recorded the first value alone.
    (tmp_path / PROMPT_FILE).write_text('{"vision_id": false}')
    assert prompt_notes(PROMPT, model) == []


def test_what_is_asked_otherwise_is_stated() -> None:
    assert vision_id_note(PROMPT, True) is None
    assert vision_id_note(replace(PROMPT, vision_id=True), True) is None
    assert vision_id_note(replace(PROMPT, vision_id=True), None) is None
    assert vision_id_note(replace(PROMPT, vision_id=False), True) == (
        "note: the policy was trained with prompt.vision_id=true, it is asked with "
        "prompt.vision_id=false"
    )
