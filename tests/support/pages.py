"""Code blocks of the documentation, as its readers see them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
        *(ROOT / "experiments").rglob("*.md"),
    ]
)
"""Every page with commands or code."""

_FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_NAME = re.compile(r"# ([\w/]+\.(?:py|yaml))\b")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: as the page states it; empty where it does not.
        text: its lines, without the indentation of a list that it stands in.
    """

    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that the block's first line names (`# mine/reward/own.yaml`)."""
        named = _NAME.match(self.text)
        return named[1] if named and self.language in ("python", "yaml") else None


def blocks(page: Path) -> list[Block]:
    """Fenced blocks of a page in their order."""
    return blocks_of(page.read_text(encoding="utf-8"))


def blocks_of(text: str) -> list[Block]:
    """Fenced blocks of a page's text, or of a section."""
    return [Block(found[2], textwrap.dedent(found[3])) for found in _FENCED.finditer(text)]


def prose(page: Path) -> str:
    """A page without its fenced blocks, of which the empty lines stay."""
    return _FENCED.sub(lambda found: "\n" * found[0].count("\n"), page.read_text(encoding="utf-8"))


def indented(page: Path) -> list[str]:
    """First lines of blocks that are code by their indentation alone, those of lists apart."""
    found, in_list, before = [], False, ""
    for line in prose(page).splitlines():
        if line and not line.startswith(" "):
            in_list = bool(re.match(r"(\d+\.|[-*]) ", line))
        elif line.startswith("    ") and not before.strip() and not in_list:
            found.append(line)
        before = line
    return found


def write_files(found: Iterable[Block], folder: Path) -> set[str]:
    """Write the files that blocks name, without the line that names them; their names."""
    names = set()
    for block in found:
        if block.file is not None:
            (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.file).write_text(block.text.partition("\n")[2])
            names.add(block.file)
    return names
