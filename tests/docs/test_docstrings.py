"""Public names are documented: a docstring each, shapes of tensors, errors that they raise."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.medium

ROOT = Path(__file__).resolve().parents[2]
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
REFERS = re.compile(r"Raises?\b|\b[Ss]ee `|\bAs `")
"""What states errors: a section, a sentence, or the method that this one is a case of."""


def public(body: list[ast.stmt], name: str) -> Iterator[tuple[str, Definition]]:
    """Public functions, classes and methods of a module, by dotted name."""
    for one in body:
        if isinstance(one, Definition) and not one.name.startswith("_"):
            yield f"{name}.{one.name}", one
            if isinstance(one, ast.ClassDef):
                yield from public(one.body, f"{name}.{one.name}")


@cache
def definitions() -> dict[str, Definition]:
    """All of the package."""
    found: dict[str, Definition] = {}
    for path in sorted((ROOT / "vqr1").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        assert ast.get_docstring(tree) or not tree.body, module
        found |= dict(public(tree.body, module))
    return found


def is_further(one: Definition) -> bool:
    """Another signature, or the setter, of what is documented once."""
    names = [ast.unparse(decorator) for decorator in one.decorator_list]
    return any(name == "overload" or name.endswith(".setter") for name in names)


def raised(function: ast.AST) -> set[str]:
    """Classes of errors that a function itself makes and raises, those of inner functions apart."""
    found = set()
    for one in ast.iter_child_nodes(function):
        if isinstance(one, Definition | ast.Lambda):
            continue
        if isinstance(one, ast.Raise) and isinstance(one.exc, ast.Call):
            found.add(ast.unparse(one.exc.func))
        found |= raised(one)
    return {name for name in found if name.endswith("Error")}


def test_every_public_name_is_documented_with_its_errors() -> None:
    found = definitions()
    assert len(found) > 1500
    texts = {name: ast.get_docstring(one) for name, one in found.items() if not is_further(one)}
    assert [name for name, text in texts.items() if not text] == []
    silent = [
        f"{name}: {', '.join(sorted(errors))}"
        for name, one in found.items()
        if not isinstance(one, ast.ClassDef)
        and name in texts
        and (errors := raised(one) - {"NotImplementedError"})
        and not REFERS.search(texts[name] or "")
    ]
    assert silent == [], "\n".join(silent)


def test_functions_of_tensors_state_shapes() -> None:
    """In the formulas (`vqr1.iqa`, losses, advantages): `[B, K]` where tensors come or go."""
    formulas = re.compile(r"vqr1\.(iqa|training\.(losses|advantages))\.")
    stated = re.compile(r"\[[\w .,*+'-]*\]|[Ss]calar|[Ss]ee `|[Aa]s `")
    found = {
        name: ast.get_docstring(one) or ""
        for name, one in definitions().items()
        if formulas.match(name) and isinstance(one, ast.FunctionDef) and "Tensor" in signature(one)
    }
    assert len(found) > 30
    assert [name for name, text in found.items() if not stated.search(text)] == []


def signature(one: ast.FunctionDef) -> str:
    return ast.unparse(one.args) + (ast.unparse(one.returns) if one.returns else "")
