"""Answers of a teacher that another run has kept."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.support.tiny_models import linear_of_a_family
from vqr1.durable import CommittedFile
from vqr1.errors import ConfigError
from vqr1.training.asked import differing, plain
from vqr1.training.stages import teacher_answers as asking
from vqr1.training.stages.teacher_answers import (
    FILE,
    STATES,
    TeacherAnswers,
    _check,
    _copy,
    _settings,
    teacher_answers,
)

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


PARTS = SimpleNamespace(
    config=SimpleNamespace(
        seed=1,
        model=SimpleNamespace(min_pixels=784, max_pixels=3136),
        hardware=SimpleNamespace(precision="32-true"),
        validation=SimpleNamespace(max_images=None),
        rollout=SimpleNamespace(sampling="as it is"),
    ),
    policy=SimpleNamespace(model=linear_of_a_family(), source="run/export", revision=None),
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


def other_precision(parts: Any) -> None:
    parts.config.hardware.precision = "bf16-mixed"


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (other_weights, "weights"),
        (other_layer, "weights"),
        (other_pixels, "max_pixels"),
        (other_system, "prompt"),
        (other_precision, "precision"),
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


def test_what_a_later_version_adds_keeps_answers_while_it_has_its_default() -> None:
    @dataclass
    class Sampling:
        temperature: float = 1.0
        added: int = 0

    assert plain(Sampling(0.7)) == {"class": "Sampling", "temperature": 0.7}
    assert plain(Sampling(0.7, 1)) == {"class": "Sampling", "temperature": 0.7, "added": 1}
    assert plain({"a": (None, [object])}) == {"a": [None, ["<class 'object'>"]]}
    assert plain(object()) == "<object object>"
    kept = {"samples": 2, "sampling": plain(Sampling(0.7))}
    assert differing(kept, {"samples": 2, "sampling": plain(Sampling(0.7))}) == []
    assert differing(kept, {"samples": 3, "sampling": plain(Sampling()), "more": None}) == [
        "samples", "sampling", "more"
    ]  # fmt: skip


def test_answers_are_asked_for_in_the_precision_of_the_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Asking:
        def __init__(self, *_: Any) -> None:
            self.close = lambda: None

        def ask(self) -> None:
            seen.append(torch.is_autocast_enabled("cpu"))
            raise ConfigError(["asked"])

    seen: list[bool] = []
    monkeypatch.setattr(asking, "_Writer", Asking)
    for change in (other_precision, lambda parts: None):
        parts: Any = copy.deepcopy(PARTS)
        change(parts)
        with pytest.raises(ConfigError, match="asked"):
            teacher_answers(parts, 2)
    assert seen == [True, False]


@pytest.mark.parametrize("stated", [[1.0, 2.0, None], [1.0, 2.0, 3.0]])
def test_an_image_without_a_score_is_no_score(stated: list[float | None]) -> None:
    rows = SimpleNamespace(index=range(3))
    parts: Any = copy.deepcopy(PARTS)
    parts.data.sets = {"demo": SimpleNamespace(rows=lambda split, most: rows)}
    scores = {("demo", row): score for row, score in enumerate(stated) if score is not None}
    found = TeacherAnswers(scores, {})
    if len(scores) == 3:
        _check(found, parts)
        return
    with pytest.raises(ConfigError, match="one or two numbers"):
        _check(found, parts)
