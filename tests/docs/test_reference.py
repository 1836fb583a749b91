"""The generated reference: complete, and true to the schema."""

from __future__ import annotations

import re
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from reference_pages.configuration import (
    COMMANDS,
    command_page,
    group_folders,
    group_page,
    keys_of,
)

from vqr1.cli.compose import compose_config, plain_values
from vqr1.config import config_dir, validate
from vqr1.config.types import ARGUMENTS, key_of_field

NEEDED = {"train": ["run_dir=run"], "eval": ["run_dir=run"], "export": ["output=out"]}


def composed_keys(value: Any, prefix: str = "") -> set[str]:
    """Keys of a validated configuration, those of the user's own mappings apart."""
    found = set()
    for field in fields(value):
        if field.name == ARGUMENTS:
            continue
        key = f"{prefix}{key_of_field(value, field.name)}"
        found.add(key)
        if is_dataclass(inner := getattr(value, field.name)):
            found |= composed_keys(inner, f"{key}.")
    return found


@pytest.mark.medium
@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_of_a_command_is_on_its_page(command: str) -> None:
    composed = compose_config(command, NEEDED.get(command, []))
    wanted = composed_keys(validate(COMMANDS[command], plain_values(composed)))
    listed = {key.name: key for key in keys_of(COMMANDS[command])}
    assert wanted <= listed.keys()
    assert not [name for name, key in listed.items() if not key.kind]
    page = command_page(command)
    headings = re.findall(r"^###### `(.+)` \{", page, re.MULTILINE)
    assert headings == list(listed)
    # Every key is there, each with its meaning, but for groups, whose choices have pages.
    assert not [name for name, key in listed.items() if not key.meaning and key.kind != "group"]


def test_type_range_default_and_meaning_of_keys() -> None:
    keys = {key.name: key for key in keys_of(COMMANDS["train"])}
    assert keys["grpo.group_size"].kind == "integer, at least 2"
    assert keys["grpo.group_size"].default == "(chosen)"
    assert keys["grpo.reference_mixup"].kind == "number, above 0, at most 1"
    assert keys["grpo.reference_mixup"].default == "`1.0`"
    assert keys["target"].kind.startswith("`mos` or `pairs`")
    assert keys["grpo.reference_sync_every"].kind == "integer, above 0 or `null`"
    assert "K: responses sampled" in keys["grpo.group_size"].meaning
    assert keys["hardware.threads"].level.name == "ROUNDING"


def test_every_choice_is_on_the_page_of_its_group() -> None:
    shown = {folder: group_page(folder) for folder in group_folders()}
    for path in config_dir().rglob("*.yaml"):
        if path.parent != config_dir():
            assert f"\n## {path.stem}\n" in shown[path.parent]
