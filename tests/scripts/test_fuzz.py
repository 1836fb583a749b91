"""Short runs of the fuzzers; `scripts/fuzz.py` runs them for as long as wanted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import fuzz
from fuzzing.texts import long_texts

from vqr1.iqa.answers import PUBLISHED

pytestmark = pytest.mark.medium


def test_parser_takes_anything(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.fuzz_parser(seed=3, count=20_000) == 0
    assert "20000 texts, seed 3" in capsys.readouterr().out


def test_parser_ends_on_a_million_characters() -> None:
    # Under a quadratic rule each of these would take 10^12 steps, and this test would never end.
    for text in long_texts(1_000_000):
        assert PUBLISHED.parse(text).score in (None, 1.0, 3.0)


@pytest.mark.parametrize("target", ["labels", "jsonl", "config"])
def test_loaders_raise_only_what_users_understand(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = {"labels": 4, "jsonl": 1, "config": 3}[target]
    arguments = [target, "--minutes", str(seconds / 60), "--keep", str(tmp_path)]
    assert fuzz.main(arguments) == 0, capsys.readouterr().out


def test_a_finding_is_reported_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "input"
    folder.mkdir()
    (folder / "a.csv").write_text("x")

    def broken() -> str:
        raise IndexError("list index out of range")

    def endless() -> str:
        while True:
            pass

    cases = iter([("a", broken), ("b", endless)])
    assert fuzz.fuzz_loader(cases, folder, tmp_path / "kept", seconds=60, hang=0.2) == 2
    printed = capsys.readouterr().out
    assert "FINDING 1 a" in printed
    assert "IndexError: list index out of range" in printed
    assert "HangError" in printed
    assert (tmp_path / "kept" / "001" / "a.csv").read_text() == "x"
