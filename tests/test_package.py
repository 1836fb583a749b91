"""The wheel works outside the checkout; the README's commands are the ones that exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_wheel_carries_configuration_and_tiny_policy(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, ROOT],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        # What makes the demo model stays in the checkout.
        assert not [name for name in archive.namelist() if name.startswith("tools")]
    assert (site / "vqr1" / "conf" / "train.yaml").is_file()
    assert (site / "vqr1" / "assets" / "tiny" / "model.safetensors").is_file()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = "import vqr1; assert 'site' in vqr1.__file__; from vqr1.cli.train import main; main()"
    shown = subprocess.run(
        [sys.executable, "-c", code, "--cfg", "job", "dataset=kadid+tid"],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(site)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "group_size: 6" in shown.stdout
    assert "tid" in shown.stdout


def test_makefile_documents_every_target_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    helped = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    used = set(re.findall(r"\bmake ([a-z-]+)", readme))
    assert used
    for target in used:
        assert f"make {target} " in helped, target


def test_readme_links_and_pictures_exist() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+?)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_nothing_names_one_machine() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\n")
    for name in tracked:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".yaml", ".toml", ".txt", ".sh"} and path.is_file():
            text = path.read_text()
            assert not re.search(r"(?<![\w.])/(home|root)/\w", text), name
