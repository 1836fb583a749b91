"""Answers of a teacher that another run has kept."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlavaConfig

from vqr1.durable import CommittedFile
from vqr1.errors import ConfigError
from vqr1.training.stages.teacher_answers import FILE, STATES, _copy, _settings

SETTINGS = {"teacher": "run/export", "data": {"demo": "ab"}, "samples": 2}


def keep(folder: Path) -> None:
    folder.mkdir()
    lines = json.dumps(SETTINGS) + '\n{"dataset": "demo", "row": 3}\n'
    for name, content in ((FILE, lines.encode()), (STATES, bytes(16))):
        with closing(CommittedFile(folder / name)) as file:
            file.append(content)


def test_another_runs_answers_are_taken_as_far_as_they_are_committed(tmp_path: Path) -> None:
    keep(tmp_path / "one")
    with (tmp_path / "one" / FILE).open("ab") as cut:
        cut.write(b'{"dataset": "de')
    (tmp_path / "two").mkdir()
    _copy(tmp_path / "one", tmp_path / "two", SETTINGS)
    for name in (FILE, STATES):
        with closing(CommittedFile(tmp_path / "two" / name)) as file:
            assert file.size == (tmp_path / "two" / name).stat().st_size > 0
    assert (tmp_path / "two" / FILE).read_text().endswith('"row": 3}\n')


def test_answers_to_something_else_are_refused_in_one_line(tmp_path: Path) -> None:
    keep(tmp_path / "one")
    (tmp_path / "two").mkdir()
    for folder, settings, printed in (
        ("nowhere", SETTINGS, f"no {FILE} is there"),
        ("one", {**SETTINGS, "samples": 6, "seed": 1}, "are of another samples, seed; set null"),
    ):
        with pytest.raises(ConfigError, match=printed) as refused:
            _copy(tmp_path / folder, tmp_path / "two", settings)
        assert str(refused.value).startswith(f"stage.answers_from={tmp_path / folder}: ")
        assert "\n" not in str(refused.value)
    assert not any((tmp_path / "two").iterdir())


def teacher() -> Any:
    """What the settings ask of a policy: weights and a configuration of a known family."""
    model: Any = torch.nn.Linear(2, 1)
    model.config = LlavaConfig(vision_feature_layer=-2)
    return model


PARTS = SimpleNamespace(
    config=SimpleNamespace(
        seed=1,
        model=SimpleNamespace(min_pixels=784, max_pixels=3136),
        rollout=SimpleNamespace(sampling="as it is"),
    ),
    policy=SimpleNamespace(model=teacher(), source="run/export", revision=None),
    data=SimpleNamespace(prompt_text="<s>You rate images.<img>Rate it.", digests=dict),
    answer="tags",
)


def other_weights(parts: Any) -> None:
    parts.policy.model.weight.data[0, 1] += 1.0


def other_layer(parts: Any) -> None:
    parts.policy.model.config.vision_feature_layer = -1


def other_pixels(parts: Any) -> None:
    parts.config.model.max_pixels = 1568


def other_system(parts: Any) -> None:
    parts.data.prompt_text = "<s>You look at images.<img>Rate it."


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (other_weights, "weights"),
        (other_layer, "weights"),
        (other_pixels, "max_pixels"),
        (other_system, "prompt"),
    ],
)
def test_answers_are_of_one_prompt_image_size_and_weights(
    change: Callable[[Any], None], name: str
) -> None:
    own: Any = PARTS
    other = copy.deepcopy(own)
    before = _settings(own, 2)
    assert _settings(other, 2) == before
    change(other)
    after = _settings(other, 2)
    assert [key for key in before if before[key] != after[key]] == [name]
