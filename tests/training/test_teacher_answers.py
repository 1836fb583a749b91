"""Answers of a teacher that another run has kept."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from vqr1.durable import CommittedFile
from vqr1.errors import ConfigError
from vqr1.training.stages.teacher_answers import FILE, STATES, _copy

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
