"""The overrides on a model card with which `vqr1-score` asks as a training did.

A prompt and an answer form are named by their packaged files; what a run had otherwise is an
override each. Not here: `prompt.vision_id`, which the checkpoint's folder records.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vqr1.config import config_dir, read_choice
from vqr1.config.folder import answer_of_prompt
from vqr1.config.plain import flatten
from vqr1.program import in_shell, setting

ASKED = ("name", "text", "system", "enable_thinking")
"""Keys of a prompt that are given with each command."""
_PROMPT, _ANSWER = "thinking", "think_answer"
"""What `vqr1-score` takes where it is given none."""


def asking(prompt: Mapping[str, Any], answer: Mapping[str, Any]) -> list[str] | None:
    """Overrides for a shell; None where the form is none of the packaged classes.

    Args:
        prompt: the group of a run.
        answer: likewise.
    """
    name = _packaged_prompt(prompt["name"])
    file = read_choice("prompt", name, "prompt")
    found = [f"prompt={name}"]
    found += _changes(
        "prompt",
        {key: value for key, value in file.items() if key in ASKED},
        {key: prompt.get(key) for key in ASKED},
    )
    chosen = answer_of_prompt(name) or _ANSWER
    others = sorted(path.stem for path in (config_dir() / "answer").glob("*.yaml"))
    forms = {form: read_choice("answer", form, "answer") for form in (chosen, *others)}
    changes = {
        form: _changes("answer", values, answer)
        for form, values in forms.items()
        if values["_target_"] == answer["_target_"]
    }
    if not changes:
        return None
    nearest = min(changes, key=lambda form: len(changes[form]))
    return [*found, *([] if nearest == chosen else [f"answer={nearest}"]), *changes[nearest]]


def read_answer(prompt: str) -> dict[str, Any]:
    """The answer form that goes with a prompt.

    Args:
        prompt: name of the prompt.
    """
    form = answer_of_prompt(_packaged_prompt(prompt)) or _ANSWER
    return read_choice("answer", form, "answer")


def _packaged_prompt(name: str) -> str:
    """The file of a prompt; that of the default where a run's is not packaged."""
    return name if answer_of_prompt(name) is not None else _PROMPT


def _changes(group: str, file: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """Overrides that make a group's values of those of a file."""
    before, after = flatten(file), flatten(values)
    gone = [in_shell(f"~{group}.{key}") for key in before if key not in after]
    return gone + [
        _override(f"{'' if key in before else '+'}{group}.{key}", value)
        for key, value in after.items()
        if before.get(key) != value
    ]


def _override(key: str, value: Any) -> str:
    if isinstance(value, str):
        return setting(key, value)
    return in_shell(f"{key}={json.dumps(value, ensure_ascii=False)}")
