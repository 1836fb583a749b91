"""The README's commands are the ones that exist; nothing names what only one machine has."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


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


def test_readme_links_and_images_exist() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+?)\)", page.read_text()):
            # Pages that the documentation's build generates.
            if "://" not in target and not target.startswith("reference/"):
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


def message_texts(file: Path) -> list[str]:
    """Texts of a module that may reach a user: all but docstrings."""
    tree = ast.parse(file.read_text())
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docstrings
    ]


def test_no_message_names_a_file_that_an_installed_package_lacks() -> None:
    named = [
        f"{file.relative_to(ROOT)}: {text}"
        for folder in ("vqr1", "hydra_plugins")
        for file in sorted((ROOT / folder).rglob("*.py"))
        # The one place that knows how a checkout's files are called.
        if file != ROOT / "vqr1" / "program.py"
        for text in message_texts(file)
        if re.search(r"scripts/|\b(train|eval|score)\.py|\btests/|\bdocs/", text)
    ]
    assert named == []
