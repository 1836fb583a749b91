"""No two places of the package hold the same ten lines: what is written twice is mended once."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "vqr1"
LINES = 10


def code_lines(text: str) -> list[tuple[int, str]]:
    """Number and text of the lines that state something: no comments, imports, or brackets alone.

    Docstrings count: a paragraph that stands twice is one too many.
    """
    imports = {
        number
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    return [
        (number, " ".join(line.split()))
        for number, line in enumerate(text.splitlines(), 1)
        if number not in imports
        and not line.lstrip().startswith("#")
        and any(letter.isalnum() for letter in line)
    ]


def repeats(files: dict[str, str], length: int = LINES) -> Iterator[str]:
    """Two places with the same lines, each such pair once."""
    places: dict[tuple[str, ...], list[tuple[str, int, int]]] = defaultdict(list)
    for name, text in files.items():
        lines = code_lines(text)
        for start in range(len(lines) - length + 1):
            window = lines[start : start + length]
            places[tuple(line for _, line in window)].append((name, start, window[0][0]))
    known: set[tuple[str, str, int]] = set()
    for found in places.values():
        (name, start, number), *others = found
        for other, at, there in others:
            if name == other and at - start < length:
                continue  # it overlaps itself
            # The next window of the same pair lies as many lines further in both.
            if (name, other, at - start) not in known:
                known.add((name, other, at - start))
                yield f"{name}:{number} ~ {other}:{there}"


def test_no_ten_lines_stand_twice() -> None:
    files = {
        path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(PACKAGE.rglob("*.py"))
    }
    assert len(files) > 300
    assert list(repeats(files)) == []


def test_what_stands_twice_is_found() -> None:
    body = [f"value_{n} = {n}" for n in range(LINES)]
    one = "\n".join(["import os", *body, "other = 0"])
    # Other indentation, a comment, an import and a blank line between are no difference.
    two = "\n".join(["if True:", *(f"    {line}" for line in body[:4]), "    # why", "",
                     "    from a import (", "        b,", "    )",
                     *(f"    {line}" for line in body[4:])])  # fmt: skip
    assert list(repeats({"one": one, "two": two})) == ["one:2 ~ two:2"]
    assert list(repeats({"one": f"{one}\n{one}"})) == ["one:2 ~ one:14"]
    changed = two.replace("value_5 = 5", "value_5 = 6")
    assert list(repeats({"one": one, "two": changed})) == []
