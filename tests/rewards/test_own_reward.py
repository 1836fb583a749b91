"""The recipe of `docs/rewards.md` as a user follows it; the package is untouched."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.cli.conftest import Command, run, write_kadid  # noqa: F401
from tests.support.pages import blocks_of, write_files
from tools.faults.killed_sweep import TINY_RUN
from vqr1.cli.train import main

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "docs" / "rewards.md"


@pytest.mark.slow
def test_the_recipe_trains(
    run: Command,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    section = RECIPE.read_text().split("## A reward of your own")[1]
    found = blocks_of(section)
    assert write_files(found, tmp_path) == {"closeness.py"}
    command = found[1].text.replace("\\\n", " ").removeprefix("PYTHONPATH=. python train.py ")
    write_kadid(tmp_path / "kadid")
    monkeypatch.syspath_prepend(tmp_path)
    outcome = run(main, *shlex.split(command), *TINY_RUN, "logger=csv")
    assert outcome.code == 0, outcome.err
    assert "reward format + closeness" in outcome.out
