"""The reference of the configuration as Markdown: from the schema, its docstrings and `conf/`.

A page for each command with all keys that it reads, and one for each group of `conf/` with its
choices. Nothing is written by hand, so that nothing goes stale.

Not here: what `--help` prints (`vqr1.cli.help`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter

from vqr1.config import (
    EvalConfig,
    ExportConfig,
    ScoreConfig,
    ServeConfig,
    TrainConfig,
    config_dir,
)
from vqr1.config.affects import Affects, affects
from vqr1.config.meanings import field_meanings
from vqr1.config.types import ARGUMENTS, key_of_field

COMMANDS: dict[str, type] = {
    "train": TrainConfig,
    "eval": EvalConfig,
    "score": ScoreConfig,
    "serve": ServeConfig,
    "export": ExportConfig,
}
"""Schema of each command that Hydra composes."""

_REQUIRED = "(chosen)"

_LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "pattern": "like `{}`",
    "minItems": "at least {} entries",
    "maxItems": "at most {} entries",
}


@dataclass(frozen=True)
class Key:
    """A key of a configuration.

    Attributes:
        name: dotted, as on the command line.
        kind: its type and range in words.
        default: as YAML writes it; `(chosen)` where a file of `conf/` gives it.
        meaning: docstring of the field.
        level: what changes with it.
    """

    name: str
    kind: str
    default: str
    meaning: str
    level: Affects


def keys_of(schema: type) -> Iterator[Key]:
    """Every key that a schema holds, those of its groups after its own.

    Args:
        schema: dataclass of a command's configuration.
    """
    document = TypeAdapter(schema).json_schema()
    yield from _keys(schema, schema, document, document.get("$defs", {}), "")


def _keys(
    root: type, schema: type, described: Mapping[str, Any], parts: Mapping[str, Any], prefix: str
) -> Iterator[Key]:
    meanings, hints = field_meanings(schema), get_type_hints(schema)
    inner: list[tuple[str, type]] = []
    for field in fields(schema):
        alias = key_of_field(schema, field.name)
        if field.name == ARGUMENTS:
            continue
        name = f"{prefix}{alias}"
        found = described["properties"][alias]
        meaning = meanings.get(field.name, "")
        nested = list(_schemas(hints[field.name]))
        inner += [(_below(found, name), one) for one in nested]
        yield Key(name, _kind(found, parts), _default(found, nested), meaning, affects(root, name))
    for below, one in inner:
        yield from _keys(root, one, parts[one.__name__], parts, f"{below}.")


def _below(described: Mapping[str, Any], name: str) -> str:
    """Name of what stands below a key: entries of a mapping have names of the user's."""
    return f"{name}.NAME" if "additionalProperties" in described else name


def _schemas(hint: Any) -> Iterator[type]:
    """Schema classes in a type hint."""
    if isinstance(hint, type) and is_dataclass(hint):
        yield hint
    for argument in get_args(hint):
        yield from _schemas(argument)


def _default(described: Mapping[str, Any], nested: list[type]) -> str:
    if "default" in described and not isinstance(described["default"], Mapping):
        return f"`{json.dumps(described['default'], ensure_ascii=False)}`"
    return "" if nested else _REQUIRED


def _kind(described: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    """Type and range of a value in words."""
    if "$ref" in described:
        return "group"
    if "enum" in described:
        return " or ".join(f"`{_plain(value)}`" for value in described["enum"])
    if "const" in described:
        return f"`{_plain(described['const'])}`"
    for several in ("anyOf", "oneOf"):
        if several in described:
            kinds = [_kind(one, parts) for one in described[several]]
            return " or ".join(dict.fromkeys(kinds))
    kind = str(described.get("type", "any"))
    if kind == "null":
        return "`null`"
    if kind == "array":
        entries = described.get("prefixItems")
        inside = (
            ", ".join(_kind(one, parts) for one in entries)
            if entries
            else _kind(described.get("items", {}), parts)
        )
        kind = f"list of {inside}"
    if kind == "object":
        values = described.get("additionalProperties")
        kind = (
            "mapping" if not isinstance(values, Mapping) else f"mapping to {_kind(values, parts)}"
        )
    limits = [
        text.format(_plain(described[key])) for key, text in _LIMITS.items() if key in described
    ]
    return ", ".join([kind, *limits])


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def command_page(command: str) -> str:
    """The page of a command's keys, as Markdown."""
    schema = COMMANDS[command]
    groups = {path.name for path in config_dir().iterdir() if path.is_dir()}
    lines = [
        # A key comes before the code that reads it.
        *("---", "search:", "  boost: 4", "---"),
        f"# Keys of `vqr1 {command}`",
        "",
        f"Every key of `conf/{command}.yaml`: type and range, default, what it affects, and its",
        f"meaning. Where the default is {_REQUIRED}, `conf/{command}.yaml` or the chosen file of a",
        f"group gives the value; `vqr1 {command} --help` shows the values as they are composed.",
    ]
    section = None
    named: set[str] = set()
    for key in keys_of(schema):
        first, dot, _ = key.name.partition(".")
        if dot and first != section:
            section = first
            link = f" ([choices](groups/{first}.md))" if first in groups else ""
            lines += ["", f"## {first}", "", f"`{first}=`{link}" if link else f"`{first}.`", ""]
        elif not dot and section is None:
            section = ""
            lines += ["", "## Top level", ""]
        # Choices of one group may have keys of one name.
        if key.name not in named:
            # A heading of its own: the search finds and opens the key.
            lines += ["", f"###### `{key.name}` {{ #key-{key.name} }}"]
        named.add(key.name)
        lines.append(_entry(key))
    return "\n".join(lines) + "\n"


def _entry(key: Key) -> str:
    facts = [key.kind]
    if key.default:
        facts.append(f"default {key.default}")
    facts.append(f"affects {key.level.name.lower()}")
    return "\n".join(["", f"*{'; '.join(facts)}*", "", key.meaning])


def group_page(folder: Path) -> str:
    """The page of a group of `conf/`: each choice as its file has it, comments with it."""
    name = folder.relative_to(config_dir()).as_posix()
    lines = [f"# `{name}=`", ""]
    if notes := (folder / "README.md").is_file() and (folder / "README.md").read_text("utf-8"):
        lines += [str(notes), ""]
    for path in sorted(folder.glob("*.yaml")):
        text = path.read_text(encoding="utf-8").rstrip()
        lines += [f"## {path.stem}", "", "```yaml", text, "```", ""]
    return "\n".join(lines)


def group_folders() -> list[Path]:
    """Folders of `conf/` that hold choices, also those inside others."""
    return sorted({path.parent for path in config_dir().rglob("*.yaml")} - {config_dir()})
