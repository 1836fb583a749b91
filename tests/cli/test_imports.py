"""Mistakes, and the parents of other processes, do not wait for libraries that only work needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.medium

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"lightning", "torchmetrics", "transformers", "peft", "matplotlib"}


def imported(folder: Path, code: str, *arguments: str) -> tuple[set[str], str]:
    """What a process has imported at its end, and its error output."""
    report = "import atexit, sys; atexit.register(lambda: print('imported:', *sys.modules)); "
    done = subprocess.run(
        [sys.executable, "-c", report + code, *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    _, found, names = done.stdout.rpartition("imported: ")
    assert found, done.stderr
    return set(names.split()), done.stderr


@pytest.mark.parametrize(
    ("command", "arguments", "printed", "without"),
    [
        ("train", ["nosuch=1"], "nosuch", {"torch", "mlflow"}),
        ("train", ["resume=nowhere"], "resume=nowhere", {"torch", "mlflow"}),
        # What rewards ask for is checked on their objects, which are functions of tensors.
        ("train", ["-m", "loader.batch_size=1,2"], "batch_size=1", {"mlflow"}),
        ("evaluate", ["prompt=describe"], "prompt=describe", {"torch", "mlflow", "pandas"}),
    ],
)
def test_a_mistake(
    tmp_path: Path, command: str, arguments: list[str], printed: str, without: set[str]
) -> None:
    modules, errors = imported(tmp_path, f"from vqr1.cli.{command} import main; main()", *arguments)
    assert errors.startswith("error: ")
    assert printed in errors
    assert not modules & (HEAVY | without)


def test_a_launcher_and_a_sweep(tmp_path: Path) -> None:
    modules, _ = imported(
        tmp_path, "import vqr1.cli.train, vqr1.distributed.launch, vqr1.sweeps.session"
    )
    assert not modules & HEAVY


def test_copying_a_checkpoint(tmp_path: Path) -> None:
    modules, _ = imported(tmp_path, "import vqr1.policy.export, vqr1.cli.export")
    assert not modules & (HEAVY | {"torch", "mlflow"})


def test_an_evaluation_of_a_table(tmp_path: Path) -> None:
    rows = [f"{n}.png,{n % 7},{n % 5}" for n in range(40)]
    (tmp_path / "scores.csv").write_text("\n".join(["image,score,mos", *rows]) + "\n")
    arguments = ["predictions=scores.csv", "statistics.bootstrap_draws=10"]
    modules, errors = imported(tmp_path, "from vqr1.cli.evaluate import main; main()", *arguments)
    assert (tmp_path / "outputs").is_dir(), errors
    assert not modules & (HEAVY - {"matplotlib"} | {"torch", "torchvision", "sklearn"})


def test_scikit_learn_is_hidden_from_transformers_alone(tmp_path: Path) -> None:
    code = (
        "from vqr1.policy.without_sklearn import hide_sklearn_from_transformers as hide; hide(); "
        "import sys, transformers.generation.candidate_generator; "
        "assert 'sklearn' not in sys.modules; import sklearn.metrics"
    )
    modules, errors = imported(tmp_path, code)
    assert "sklearn.metrics" in modules, errors


def test_scoring_an_image(tmp_path: Path) -> None:
    Image.new("RGB", (160, 120)).save(tmp_path / "a.png")
    modules, errors = imported(tmp_path, "from vqr1.cli.score import main; main()", "a.png")
    assert "1 scored" in errors
    assert not modules & {"lightning", "torchmetrics", "peft", "matplotlib", "mlflow"}
    assert not modules & {"sklearn", "pandas"}
    families = {name for name in modules if name.startswith("transformers.models.")}
    models = {name for name in families if ".modeling_" in name}
    assert {name.split(".")[2] for name in models} <= {"qwen2_5_vl", "qwen2_vl", "auto"}
