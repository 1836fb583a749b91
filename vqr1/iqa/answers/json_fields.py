"""A JSON object in a response: its values, and where each of them stands. Linear in its length.

Stricter than the standard library: a key that is there twice, `NaN` and `Infinity` make the object
invalid, since they mean two things or nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from vqr1.iqa.answers.base import Span

LONGEST_JSON = 20_000
"""Characters of an object beyond which it is not read."""

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"|[{}\[\]:,]|[^\s"{}\[\]:,]++', re.DOTALL)
_FENCE = re.compile(r"```(?:json)?[ \t]*\n")
_FENCE_END = "```"


class Digits(str):
    """A number as it is written."""

    __slots__ = ()


def object_span(text: str, start: int, end: int) -> Span:
    """A piece of text without the blanks around it, and without a fence ```` ```json ````.

    A response that was ended at the object's last brace has no end of the fence.
    """
    start, end = _stripped(text, start, end)
    fence = _FENCE.match(text, start, end)
    if fence is not None:
        closed = text.endswith(_FENCE_END, fence.end(), end)
        return _stripped(text, fence.end(), end - len(_FENCE_END) * closed)
    return start, end


def read_object(text: str) -> Mapping[str, Any] | None:
    """The object that a text is, numbers as `Digits`, or None."""
    if len(text) > LONGEST_JSON or not text.startswith("{"):
        return None
    try:
        found = json.loads(
            text,
            parse_int=Digits,
            parse_float=Digits,
            parse_constant=_refused,
            object_pairs_hook=_without_doubles,
        )
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def value_at(values: Mapping[str, Any] | None, path: str) -> Any:
    """The value of a dotted path, such as `reasoning.evidence`; None where there is none."""
    found: Any = values
    for key in path.split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(key)
    return found


def value_spans(text: str, start: int, end: int) -> dict[str, Span]:
    """Where the values of an object stand, by dotted path: of strings what the quotes hold.

    Objects and lists have no place of their own; what objects hold has.

    Args:
        text: holds a valid object from `start` to `end`.
        start: first character of the object.
        end: the one after its last.
    """
    spans: dict[str, Span] = {}
    path: list[str | None] = []  # key of each open object; None in a list
    key: str | None = None
    expects_key = False
    for token in _TOKEN.finditer(text, start, end):
        mark = token[0]
        if mark in ("{", "["):
            path.append(key)
            key, expects_key = None, mark == "{"
            if mark == "[":
                path[-1] = None
        elif mark in ("}", "]"):
            if path:
                path.pop()
            key, expects_key = None, False
        elif mark == ",":
            expects_key, key = True, None
        elif mark == ":":
            expects_key = False
        elif expects_key:
            key = json.loads(mark) if mark.startswith('"') else None
        elif key is not None and None not in path[1:]:
            quoted = int(mark.startswith('"'))
            name = ".".join([*(part for part in path[1:] if part is not None), key])
            spans[name] = (token.start() + quoted, token.end() - quoted)
    return spans


def _stripped(text: str, start: int, end: int) -> Span:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _refused(constant: str) -> Iterator[None]:
    raise ValueError(constant)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found
