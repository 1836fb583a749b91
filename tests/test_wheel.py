"""The installed wheel stands alone: every command works in an empty folder, far from a checkout."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.support.images import noise_image
from vqr1.sweeps.folder import FINISHED

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
NOT_IN_A_WHEEL = re.compile(r"scripts/|train\.py|\btests\b")
STEP = (
    "dataset.max_images=10", "loader.workers=0", "loader.batch_size=2", "max_steps=2",
    "validation.every_steps=2", "validation.samples=1", "validation.test=false",
    "validation.bootstrap_draws=20", "grpo.group_size=2", "rollout.sampling.max_new_tokens=8",
)  # fmt: skip

Vqr1 = Callable[..., str]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, installed beside nothing but what it requires."""
    place = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", place, ROOT], check=True)
    (wheel,) = place.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", place / "site", wheel], check=True)
    return place / "site"


@pytest.fixture(scope="module")
def environment(site: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder, but for an image and a table of predictions."""
    folder = tmp_path_factory.mktemp("empty")
    noise_image(1).save(folder / "photo.png")
    rows = [f"{n}.png,{n % 7},{n % 5 + n / 9}" for n in range(20)]
    (folder / "scores.csv").write_text("\n".join(["image,score,mos", *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def vqr1(site: Path, environment: dict[str, str], folder: Path) -> Vqr1:
    """Run the installed program; its output, which names nothing that it lacks."""

    def run(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [site / "bin" / "vqr1", *arguments],
            cwd=folder, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        printed = done.stdout + done.stderr
        assert done.returncode == code, printed
        assert not NOT_IN_A_WHEEL.search(printed), printed
        return printed

    return run


def test_configuration_and_tiny_policy_come_along(site: Path, vqr1: Vqr1) -> None:
    assert (site / "vqr1" / "conf" / "train.yaml").is_file()
    assert (site / "vqr1" / "assets" / "tiny" / "model.safetensors").is_file()
    shown = vqr1("train", "--cfg", "job", "dataset=kadid+tid")
    assert "group_size: 6" in shown
    assert "tid" in shown


def test_help_of_every_command(vqr1: Vqr1) -> None:
    names = re.findall(r"^  (\w+)", vqr1("--help"), re.MULTILINE)
    assert len(names) == 10
    for name in [*names, "data inspect", "data prepare"]:
        assert vqr1(*name.split(), "--help")


def test_a_training_its_checkpoint_and_its_log(vqr1: Vqr1, folder: Path) -> None:
    vqr1("train", *STEP, "run_dir=run")
    assert "continues" in vqr1("train", "resume=run", "run_dir=run", code=2)
    vqr1("export", "run=run", "output=exported")
    assert (folder / "exported/model.safetensors").is_file()
    assert "0 left" in vqr1("sync", "run")
    assert vqr1("eval", "model.path=exported", "dataset.max_images=4", "mode=greedy",
                "logger=none", "report.plots=false", "statistics.bootstrap_draws=0")  # fmt: skip


def test_a_sweep_and_its_table(vqr1: Vqr1, folder: Path) -> None:
    vqr1("train", "-m", *STEP, "seed=1,2", "hydra/launcher=processes")
    (sweep,) = (folder / "multirun/train").iterdir()
    assert vqr1("summarize", f"folder={sweep}").startswith("`vqr1 train -m ")
    assert json.loads((sweep / "sweep_summary.json").read_text())["counts"] == {FINISHED: 2}


def test_commands_without_a_training(vqr1: Vqr1, folder: Path) -> None:
    assert vqr1("eval", "predictions=scores.csv", "logger=none", "report.plots=false")
    assert "photo.png" in vqr1("score", "photo.png")
    assert "contact sheet: inspected/demo.png" in vqr1("data", "inspect", "--decode", "5")
    assert "lines in prepared/demo_test.jsonl" in vqr1("data", "prepare", "--split", "test")
    assert "seconds of a step" in vqr1("plan", "hardware=1gpu", "model=qwen2_5_vl_3b")
    assert "hardware=cpu: tiny" in vqr1("doctor")
    assert "did you mean `vqr1 train`" in vqr1("trian", code=2)
    assert vqr1("score", "gone.png", code=2)


def test_the_service(site: Path, environment: dict[str, str], folder: Path) -> None:
    service = subprocess.Popen(
        [site / "bin" / "vqr1", "serve", "port=0"],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert service.stdout is not None
    printed = ""
    while (address := re.search(r"http://127\.0\.0\.1:\d+", printed)) is None:
        line = service.stdout.readline()
        assert line, printed
        printed += line
    with urlopen(f"{address[0]}/health", timeout=30) as answer:
        assert answer.status == 200
    service.send_signal(signal.SIGTERM)
    printed += service.communicate(timeout=60)[0]
    assert service.returncode == 0, printed
    assert not NOT_IN_A_WHEEL.search(printed)
