"""Every claim of SECURITY.md names a test that there is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def claims() -> list[tuple[str, str]]:
    """Threat and test of each row of the tables."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (ROOT / "SECURITY.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("|") and not line.startswith(("| threat", "|---"))
    ]
    assert all(len(row) == 3 for row in rows), rows
    return [(row[0], row[2]) for row in rows]


def test_every_claim_names_a_test() -> None:
    found = claims()
    assert len(found) > 30
    missing = []
    for threat, cell in found:
        named = re.fullmatch(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`", cell)
        if named is None or not (ROOT / named[1]).is_file():
            missing.append(f"{threat}: {cell}")
            continue
        tree = ast.parse((ROOT / named[1]).read_text(encoding="utf-8"))
        tests = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        if named[2] is not None and named[2] not in tests:
            missing.append(f"{threat}: {cell}")
    assert missing == []
