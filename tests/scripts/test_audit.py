"""Checks that could pass without having checked anything."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from pip_audit._cli import audit
from pip_audit._service import PyPIService, SkippedDependency

pytestmark = pytest.mark.medium

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("reached", [True, False])
def test_a_package_that_is_not_audited_fails_the_audit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reached: bool
) -> None:
    recipe = re.search(r"pip-audit (.+)", (ROOT / "Makefile").read_text())
    assert recipe is not None
    pinned = tmp_path / "pinned.txt"
    pinned.write_text("idna==3.7\n")
    arguments = recipe[1].replace("constraints.txt", str(pinned))

    def answer(service: object, package: object) -> tuple[object, list[object]]:
        if reached:
            return package, []
        return SkippedDependency(name="idna", skip_reason="could not be audited"), []

    monkeypatch.setattr(PyPIService, "query", answer)
    monkeypatch.setattr(sys, "argv", ["pip-audit", *shlex.split(arguments)])
    code: object = 0
    try:
        audit()
    except SystemExit as end:
        code = end.code
    assert code == (0 if reached else 1)


@pytest.mark.parametrize(("must_run", "code"), [("", 0), ("1", 1)])
def test_a_skip_fails_where_a_test_must_run(tmp_path: Path, must_run: str, code: int) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_one.py").write_text(
        "import pytest\n\n\n@pytest.mark.skip(reason='no DeepSpeed')\ndef test_a():\n    pass\n"
        "\n\ndef test_b():\n    pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path, env={**os.environ, "VQR1_TESTS_MUST_RUN": must_run, "PYTEST_ADDOPTS": ""},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout


def test_targets_with_an_environment_of_their_own_must_run() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for environment in ("VLLM", "ZERO"):
        recipes = re.findall(
            rf"^\t.*\$\({environment}\)/bin/python -m pytest", makefile, re.MULTILINE
        )
        assert recipes
        assert all("VQR1_TESTS_MUST_RUN=1" in recipe for recipe in recipes)
