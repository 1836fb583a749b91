from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

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


def write_kadid(root: Path, references: int = 6, levels: int = 4) -> Path:
    """A small set in KADID's format: noise of rising strength over random colours."""
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = ["dist_img,ref_img,dmos,var"]
    for reference in range(1, references + 1):
        base = np.full((56, 56, 3), rng.integers(60, 200, 3))
        for level in range(1, levels + 1):
            name = f"I{reference:02d}_01_{level:02d}.png"
            noisy = base + rng.normal(0, 12 * (level - 1) + 1, base.shape)
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(root / "images" / name)
            rows.append(f"{name},I{reference:02d}.png,{5 - level + 0.1 * reference:.2f},0.2")
    (root / "dmos.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture
def kadid_root(tmp_path: Path) -> Path:
    return write_kadid(tmp_path / "kadid")
