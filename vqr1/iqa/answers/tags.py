"""Where tags stand in a response: steps that the forms share, each linear in the text's length."""

from __future__ import annotations

import re
from functools import lru_cache

from vqr1.iqa.answers.base import Span

THINK = "think"
"""Tag of reasoning that is passed over where none is asked for."""


@lru_cache(maxsize=64)
def _either_tag(tag: str) -> re.Pattern[str]:
    return re.compile(f"</?{tag}>")


@lru_cache(maxsize=64)
def _between(reasoning: str, opening: str) -> re.Pattern[str]:
    return re.compile(rf"</{reasoning}>\s*{re.escape(opening)}")


def after_reasoning(text: str, reasoning: str | None) -> int:
    """Where the text after the reasoning begins: the character after the last closing tag of it."""
    end = f"</{reasoning or THINK}>"
    last = text.rfind(end)
    return 0 if last < 0 else last + len(end)


def reasoning_span(text: str, reasoning: str | None) -> Span | None:
    """What the tags of reasoning hold."""
    name = reasoning or THINK
    start = text.find(f"<{name}>")
    if start < 0:
        return None
    close = text.find(f"</{name}>", start)
    return None if close < 0 else (start + len(name) + 2, close)


def has_tag(text: str, tag: str, start: int = 0) -> bool:
    """Whether a tag opens or closes after `start`."""
    return text.find(f"<{tag}>", start) >= 0 or text.find(f"</{tag}>", start) >= 0


def last_pair(text: str, tag: str, start: int = 0) -> Span | None:
    """What the last pair of tags without another one in it holds; None where tags do not pair."""
    content: Span | None = None
    opened: int | None = None  # where the content of the tag just before begins, if it opened
    depth = 0
    for found in _either_tag(tag).finditer(text, start):
        if found[0][1] != "/":
            depth, opened = depth + 1, found.end()
            continue
        depth -= 1
        if depth < 0:
            return None
        if opened is not None:
            content, opened = (opened, found.start()), None
    return None if depth else content


def enclosed(text: str, reasoning: str | None, opening: str, closing: str) -> bool:
    r"""The published patterns, without their backtracking: anything between fixed ends.

    `<think>.*?</think>\s*` where reasoning is asked for, then `opening`, anything, `closing`.
    """
    if not text.endswith(closing):
        return False
    end = len(text) - len(closing)
    if reasoning is None:
        return text.startswith(opening) and end >= len(opening)
    start = f"<{reasoning}>"
    return text.startswith(start) and bool(
        _between(reasoning, opening).search(text, len(start), end)
    )
