"""What a checkpoint's folder records of its training's prompts, beside its weights.

Recorded are whether "Picture 1: " stood before the image, how many images a prompt had, the
system message, and whether the template opened a block of reasoning. The first is taken from there
where a command leaves it open; that a command asks otherwise than the training did is printed (the
user's message is chosen anew by every command).

The published training has no "Picture 1: " in its prompts. Every policy that vqr1 trained before
`prompt.vision_id` was a key had it. A checkpoint's
own folder records which it was, so that evaluation, scoring, the service and further training ask
as the training did (`prompt.vision_id=null`); an explicit `prompt.vision_id` wins.

Where nothing is recorded, the model card that older versions wrote is read; without one there is no
"Picture 1: ".

Not here: the prompt itself (`vqr1.data.prompts`).
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from vqr1.config import ModelConfig, PromptConfig
from vqr1.errors import ModelError
from vqr1.policy.packaged import tiny_policy_folder

PROMPT_FILE = "vqr1_prompt.json"
"""In a checkpoint's folder: how the training asked."""

_CARD = "README.md"
_CARD_MARKS = ("\n- vqr1\n", "add_vision_id=True")
"""What the cards of versions before `PROMPT_FILE` held, and no other card does."""


def write_training_prompt(
    folder: Path,
    vision_id: bool,
    images: int = 1,
    system: str | None = None,
    enable_thinking: bool | None = None,
) -> None:
    """Record how a training asked, in its checkpoint's folder.

    Args:
        folder: the checkpoint.
        vision_id: whether "Picture 1: " stood before the image.
        images: images of a prompt.
        system: the system message; None: what the template writes without one.
        enable_thinking: whether the template opened a block of reasoning; None: as it does by
            itself.
    """
    values = {
        "vision_id": vision_id,
        "images": images,
        "system": system,
        "enable_thinking": enable_thinking,
    }
    text = json.dumps(values, indent=2)
    (folder / PROMPT_FILE).write_text(f"{text}\n", encoding="utf-8")


def vision_id_of(prompt: PromptConfig, model: ModelConfig, *, hub: bool = True) -> bool:
    """Whether "Picture 1: " stands before the image.

    Args:
        prompt: its `vision_id` decides, unless it is None.
        model: the checkpoint whose record decides then.
        hub: look for the record of a hub name too; without effect on folders.

    Raises:
        ModelError: the checkpoint's record is damaged.
    """
    if prompt.vision_id is not None:
        return prompt.vision_id
    return trained_vision_id(model, hub=hub) or False


def trained_vision_id(model: ModelConfig, *, hub: bool = True) -> bool | None:
    """What a checkpoint's record holds; None where there is none.

    Args:
        model: the checkpoint.
        hub: look for the record of a hub name too; without effect on folders.

    Raises:
        ModelError: the record is damaged.
    """
    record, card = (_file(model, name, hub) for name in (PROMPT_FILE, _CARD))
    if record is not None:
        value = _read(record)["vision_id"]
        if not isinstance(value, bool):
            raise ModelError(f"{record}: vision_id={value!r} must be true or false; correct it")
        return value
    if card is not None:
        text = card.read_text(encoding="utf-8", errors="replace")
        return True if all(mark in text for mark in _CARD_MARKS) else None
    return None


def prompt_notes(prompt: PromptConfig, model: ModelConfig, *, hub: bool = True) -> list[str]:
    """What to print where a command's prompt has other images, system message or reasoning.

    Args:
        prompt: what the command asks.
        model: the checkpoint whose record is compared; where it lacks a value, nothing is printed.
        hub: look for the record of a hub name too; without effect on folders.

    Raises:
        ModelError: the checkpoint's record is damaged.
    """
    record = _file(model, PROMPT_FILE, hub)
    trained = {} if record is None else _read(record)
    asked = {name: getattr(prompt, name) for name in ("images", "system", "enable_thinking")}
    return [
        f"note: the policy was trained with prompt.{key}={_value(trained[key])}, it is asked with "
        f"prompt.{key}={_value(value)}"
        for key, value in asked.items()
        if key in trained and trained[key] != value
    ]


def vision_id_note(prompt: PromptConfig, trained: bool | None) -> str | None:
    """What to print where a command asks otherwise than the training did; None where it does not.

    Args:
        prompt: what the command asks.
        trained: what the checkpoint or its run records; None: nothing.
    """
    if trained is None or prompt.vision_id in (None, trained):
        return None
    return (
        f"note: the policy was trained with prompt.vision_id={str(trained).lower()}, it is asked "
        f"with prompt.vision_id={str(prompt.vision_id).lower()}"
    )


def _value(value: Any) -> str:
    """A value as a command line has it."""
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else repr(value)


def _file(model: ModelConfig, name: str, hub: bool) -> Path | None:
    """A file of a checkpoint; None where it has none."""
    folder = tiny_policy_folder() if model.path is None else Path(model.path)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    if not hub or model.path is None:
        return None
    return _from_hub(model.path, model.revision, name)


def _read(record: Path) -> dict[str, Any]:
    """The values of a record.

    Raises:
        ModelError: it is none.
    """
    try:
        values = json.loads(record.read_text(encoding="utf-8"))
        if "vision_id" not in values or not isinstance(values, dict):
            raise ValueError("no vision_id")
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{record}: not the record of a training's prompt; remove it") from error
    return values


@functools.cache
def _from_hub(name: str, revision: str | None, file: str) -> Path | None:
    """A file of a hub repository, None where it has none or cannot be reached."""
    from transformers.utils import cached_file

    from vqr1.policy.checkpoint_config import hub_is_away

    try:
        found = cached_file(
            name,
            file,
            revision=revision,
            local_files_only=hub_is_away(),
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError):
        return None  # loading the checkpoint reports it
    return None if found is None else Path(found)
