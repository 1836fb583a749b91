from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from tools.faults.small_set import write_kadid as write_kadid
from vqr1.data.demo import ensure_demo_set


@dataclass(frozen=True)
class Outcome:
    """What a command left over: exit code (0 when it returned) and what it printed."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture(autouse=True, scope="session")
def _demo_set() -> None:
    """Make the demo set first where this machine has none: its progress bar is no output."""
    ensure_demo_set()


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Command:
    """Run a command's `main` with arguments, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    handlers = logging.getLogger().handlers
    found = list(handlers)

    def invoke(main: Callable[[], int | None], *arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        GlobalHydra.instance().clear()
        capfd.readouterr()
        code = 0
        try:
            code = int(main() or 0)
        except SystemExit as stop:
            code = int(stop.code or 0)
        # Hydra's handlers write to the standard output of the test that made them.
        handlers[:] = found
        printed = capfd.readouterr()
        return Outcome(code, printed.out, printed.err)

    return invoke


@pytest.fixture
def kadid_root(tmp_path: Path) -> Path:
    return write_kadid(tmp_path / "kadid")
