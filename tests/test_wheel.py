"""The installed wheel stands alone: every command works in an empty folder, far from a checkout."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.support.images import noise_image
from vqr1.sweeps.folder import FINISHED

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
NOT_IN_A_WHEEL = re.compile(r"scripts/|train\.py|\btests\b")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SMALLER = {
    "train": (
        "dataset.max_images=10", "loader.workers=0", "loader.batch_size=2", "max_steps=2",
        "validation.every_steps=2", "validation.samples=1", "validation.max_images=4",
        "validation.bootstrap_draws=20", "grpo.group_size=2", "rollout.sampling.max_new_tokens=8",
    ),
    "eval": ("dataset.max_images=6", "report.plots=false", "statistics.bootstrap_draws=20"),
}  # fmt: skip
"""Overrides that make a tutorial's commands small, by command."""

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
    assert (site / "vqr1" / "py.typed").is_file()
    (metadata,) = site.glob("vqr1-0.2.*.dist-info/METADATA")
    stated = metadata.read_text().partition("\n\n")[0]
    for line in ("Summary: ", "Author: ", "Project-URL: Paper", "License-Expression: Apache-2.0"):
        assert f"\n{line}" in stated
    # Hydra looks for plugins in this package at the top, and nowhere else.
    tops = {path.name for path in site.iterdir() if ".dist-info" not in path.name}
    assert tops == {"bin", "vqr1", "hydra_plugins"}
    shown = vqr1("train", "--cfg", "job", "dataset=kadid+tid")
    assert "group_size: 6" in shown
    assert "tid" in shown


def test_help_of_every_command(vqr1: Vqr1) -> None:
    names = re.findall(r"^  (\w+)", vqr1("--help"), re.MULTILINE)
    assert len(names) == 11
    for name in [*names, "data inspect", "data prepare"]:
        assert vqr1(*name.split(), "--help")


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Language and text of each fenced block of a tutorial."""
    text = (ROOT / "docs" / "tutorials" / f"{page}.md").read_text(encoding="utf-8")
    yield from FENCED.findall(text)


def follow(
    page: str, vqr1: Vqr1, folder: Path, environment: dict[str, str], replace: dict[str, str]
) -> str:
    """Run a tutorial's commands in their order, with smaller sizes; everything that is printed.

    Args:
        replace: words of the page, and what stands in their place.
    """
    printed = ""
    for language, text in blocks(page):
        for old, new in replace.items():
            text = text.replace(old, new)
        if language == "python":
            subprocess.run([sys.executable, "-c", text], cwd=folder, env=environment, check=True)
            continue
        for line in re.sub(r"\\\n\s*", " ", text).splitlines():
            program, command, *arguments = shlex.split(line, comments=True)
            assert program == "vqr1"
            printed += vqr1(command, *arguments, *SMALLER.get(command, ()))
    return printed


def test_the_first_run(vqr1: Vqr1, folder: Path, environment: dict[str, str]) -> None:
    (folder / "photos").mkdir()
    noise_image(2).save(folder / "photos" / "mine.png")
    printed = follow("first_run", vqr1, folder, environment, {})
    assert "photos/mine.png" in printed
    assert (folder / "first_run" / "export" / "model.safetensors").is_file()
    assert "continues" in vqr1("train", "resume=first_run", "run_dir=first_run", code=2)
    vqr1("export", "run=first_run", "output=exported")
    assert (folder / "exported/model.safetensors").is_file()
    assert "0 left" in vqr1("sync", "first_run")


def test_own_labels(vqr1: Vqr1, folder: Path, environment: dict[str, str]) -> None:
    follow("own_labels", vqr1, folder, environment, {})
    assert len((folder / "mine_scores.csv").read_text().splitlines()) == 41


def test_methods_compared(vqr1: Vqr1, folder: Path, environment: dict[str, str]) -> None:
    sweeps = folder / "multirun" / "train"
    smaller = {"seed=1,2": "seed=1", "multirun/train/DATE_TIME": "multirun/train/sweep"}
    where = {"max_steps=20": "max_steps=1 hydra.sweep.dir=multirun/train/sweep grpo.pool=global"}
    printed = follow("compare_methods", vqr1, folder, environment, {**smaller, **where})
    assert "`vqr1 train -m " in printed
    counts = json.loads((sweeps / "sweep" / "sweep_summary.json").read_text())["counts"]
    assert counts == {FINISHED: 3}


def test_the_papers_commands_compose(vqr1: Vqr1) -> None:
    """Its data and its hours are not here; the planner and the list of sets are."""
    assert "kadid" in vqr1("data", "list")
    assert "seconds of a step" in vqr1("plan", "experiment=published_kadid")


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
