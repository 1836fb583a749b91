"""The scripts and the notebook of `examples/`, and Python on pages that has no other test, run.

`reward_in_trl.py` is run by `tests/inference/test_reward_in_trl.py`, `batch_scoring.py` by
`tests/inference/service/test_server.py`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.cli.conftest import Command, run, write_kadid  # noqa: F401 - a fixture
from tests.support.images import noise_image
from tests.support.pages import ROOT, blocks, write_files
from tools.faults.killed_sweep import TINY_RUN

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "examples"
SMALL = (
    "max_steps=1", "loader.workers=0", "validation.every_steps=1", "validation.samples=0",
    "validation.max_images=4", "validation.test=false", "grpo.group_size=2",
    "rollout.sampling.max_new_tokens=4", "callbacks.checkpoint=null", "logger=csv", "run_dir=run",
)  # fmt: skip


def example(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Run a script as `python examples/NAME.py` does, in this process."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    text = (EXAMPLES / f"{name}.py").read_text()
    try:
        exec(compile(text, f"{name}.py", "exec"), {"__name__": "__main__"})
    finally:
        # Other tests have modules of the same name.
        sys.modules.pop(name, None)


def test_own_reward(
    run: Command,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_kadid(tmp_path / "kadid")
    outcome = run(lambda: example("own_reward", monkeypatch, *TINY_RUN, "logger=csv"))
    assert outcome.code == 0, outcome.err
    assert "reward format + closeness" in outcome.out


def test_own_data(run: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # noqa: F811
    outcome = run(lambda: example("own_data", monkeypatch, *SMALL))
    assert outcome.code == 0, outcome.err
    assert len(pd.read_csv(tmp_path / "own_data/labels.csv")) == 20


def test_own_metric(run: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # noqa: F811
    outcome = run(lambda: example("own_metric", monkeypatch, "logger=none", "run_dir=evaluation"))
    assert outcome.code == 0, outcome.err
    table = pd.read_csv(tmp_path / "own_predictions.csv")
    mean = float((table.score - table.mos).abs().mean())
    assert f"{mean:.6f}"[:7] in (tmp_path / "evaluation" / "metrics.json").read_text()
    assert "mean error" in outcome.out


def test_own_loss_and_advantage_rule(
    run: Command,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vqr1.cli.train import main

    names = write_files(blocks(ROOT / "docs" / "training.md"), tmp_path)
    assert names == {"own_parts.py", "own/loss/reinforce.yaml", "own/advantage/centred.yaml"}
    write_kadid(tmp_path / "kadid")
    monkeypatch.syspath_prepend(str(tmp_path))
    outcome = run(
        main, "hydra.searchpath=[file://own]", "loss=reinforce", "advantage=centred",
        *TINY_RUN, "logger=csv",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize(
    "page", ["docs/scoring.md", "docs/tutorials/serve_a_metric.md", "README.md"]
)
def test_python_of_a_page(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photo.jpg", "a.png", "b.png", "reference.png"):
        noise_image(len(name)).save(name)
    names: dict[str, Any] = {}
    found = [block.text for block in blocks(ROOT / page) if block.language == "python"]
    for text in found:
        exec(compile(text, page, "exec"), names)
    assert found
    assert names["metric"].score_range == (1.0, 5.0)


def test_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code), "outputs in git"
    # `vqr1` of this environment, wherever it was started from.
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "vqr1"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m vqr1 "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    shown = [output for cell in code for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in shown) >= 2
    summary = json.loads((tmp_path / "quickstart" / "summary.json").read_text())
    assert summary
