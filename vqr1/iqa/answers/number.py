"""What counts as a number in an answer (the second table of this package's header).

Not here: where in a response the number is looked for (the forms).
"""

from __future__ import annotations

import re

from vqr1.iqa.answers.base import ScoreRange, accepted_score

LONGEST_ANSWER = 200
"""Characters of an answer beyond which it is prose."""

NUMBER = r"[+-]?[0-9]{1,12}(?:\.[0-9]{1,20})?"
_WRAP = r"[\s*_`\"'()\[\]$]{0,200}"
_LABEL = r"[^\W\d](?:[^\W\d]|[\s*'\-]){0,80}?(?:\s{0,20}[:=]|\sis\b)"
_ANSWER = re.compile(
    rf"{_WRAP}(?:{_LABEL})?{_WRAP}(?P<score>{NUMBER})\.?"
    rf"(?:\s{{0,200}}(?:/|out of)\s{{0,200}}(?P<top>[0-9]{{1,12}}(?:\.0{{1,20}})?))?{_WRAP}"
)
_LONE_NUMBER = re.compile(rf"({NUMBER})\.?")


def stated_score(content: str, score_range: ScoreRange) -> float | None:
    """The score that the content of an answer states; None where it is not one plain number.

    Args:
        content: what stands in the place of the score, such as between two tags.
        score_range: lowest and highest score that the prompt asks for.
    """
    if len(content) > LONGEST_ANSWER:
        return None
    if any(sign.isnumeric() and not sign.isascii() for sign in content):
        return None
    match = _ANSWER.fullmatch(content)
    top = score_range[1]
    if match is None or (match["top"] is not None and float(match["top"]) != top):
        return None
    return accepted_score(match["score"], score_range)


def lone_number(text: str) -> str | None:
    """The one plain number that a text is, without what surrounds it; None where it is none."""
    match = _LONE_NUMBER.fullmatch(text.strip()) if len(text) <= LONGEST_ANSWER else None
    return None if match is None else match[1]
