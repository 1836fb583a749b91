"""The recipe of `docs/rewards.md` as a user follows it; the package is untouched."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.cli.conftest import write_kadid
from tests.sweeps.killed_sweep import TINY_RUN

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "docs" / "rewards.md"


@pytest.mark.slow
def test_the_recipe_trains(tmp_path: Path) -> None:
    section = RECIPE.read_text().split("## A reward of your own")[1]
    (code,) = re.findall(
        r"^    # closeness\.py\n(?:(?:    .*)?\n)+?(?=\n    PYTHONPATH)", section, re.M
    )
    (command,) = re.findall(r"^    PYTHONPATH=\. python train\.py (.*\\\n.*)$", section, re.M)
    (tmp_path / "closeness.py").write_text(textwrap.dedent(code))
    write_kadid(tmp_path / "kadid")
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *shlex.split(command.replace("\\\n", " ")),
         *TINY_RUN, "logger=csv"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": "."}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reward format + closeness" in done.stdout
