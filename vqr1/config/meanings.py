"""What the keys of a configuration mean: the docstrings under the schema's fields, and values.

Not here: which command shows them (`vqr1.cli.help`).
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from vqr1.config.types import ARGUMENTS, key_of_field

WIDTH = 100


def field_meanings(schema: type) -> dict[str, str]:
    """By field, the docstring under it, also of base classes; fields without one are not in it."""
    found: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        if not is_dataclass(base):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for node, following in zip(tree.body, tree.body[1:], strict=False):
            if (
                isinstance(node, ast.AnnAssign)
                and isinstance(node.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
            ):
                found[node.target.id] = " ".join(str(following.value.value).split())
    return found


def key_lines(config: Any, prefix: str = "") -> Iterator[str]:
    """Every key with its value as on the command line, and below it what it means.

    Args:
        config: a validated configuration, or a part of one.
        prefix: dotted key of the part, with a dot at its end.
    """
    meanings = field_meanings(type(config))
    own = sorted(fields(config), key=lambda field: is_dataclass(getattr(config, field.name)))
    for field in own:
        value, key = getattr(config, field.name), f"{prefix}{key_of_field(config, field.name)}"
        meaning = meanings.get(field.name, "")
        if field.name == ARGUMENTS:
            # They stand beside the class that takes them.
            for name, argument in value.items():
                yield f"  {prefix}{name}={_shown(argument)}"
                yield f"      Argument of {config.target}."
            continue
        if isinstance(value, Mapping) and not value:
            yield from _wrapped(f"{key}: {meaning} (none)", "  ")
            continue
        if is_dataclass(value):
            yield ""
            yield from _wrapped(f"{key}: {meaning}" if meaning else key, "")
            yield from key_lines(value, f"{key}.")
        elif isinstance(value, Mapping) and value:
            yield from _wrapped(f"{key}: {meaning}", "  ")
            for name, part in value.items():
                yield from _part_lines(f"{key}.{name}", part)
        else:
            yield f"  {key}={_shown(value)}"
            if meaning:
                yield from _wrapped(meaning, "      ")


def _part_lines(key: str, value: Any) -> Iterator[str]:
    """An entry of a mapping, whose keys are the user's or those of a class."""
    if is_dataclass(value):
        yield from key_lines(value, f"{key}.")
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _part_lines(f"{key}.{name}", part)
    else:
        yield f"      {key}={_shown(value)}"


def _shown(value: Any) -> str:
    """A value as the command line takes it, texts shortened."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(_shown(one) for one in value)}]"
    return textwrap.shorten(str(value), WIDTH - 30, placeholder=" ...")


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
