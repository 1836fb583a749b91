r"""From a response's text to a score, or to the knowledge that it holds none.

Where the answer is looked for: behind the last `</think>`, in the whole response without one.

| there | score |
|---|---|
| `<answer>...</answer>`, once or repeated | what the LAST one says |
| nested `<answer><answer>4</answer></answer>` | what the innermost one says |
| tags that do not pair up: unclosed, closed twice, a second answer that was cut off | none |
| no answer tag at all, and the whole response is one plain number | that number |
| anything else: prose, other spellings of the tags, nothing | none |

What counts as a number inside the tags:

| content | score |
|---|---|
| one plain number: `3.42`, `+3`, `3.`, `03.50` | it |
| the same behind a label that ends in `:`, `=` or `is`: `Score: 3.42` | it |
| the same in `*`, `_`, backquotes, quotes, brackets or `$`: `**3.42**` | it |
| a number out of the top of the asked scale: `3.5/5`, `3.5 out of 5` | the number before it |
| out of anything else: `7/10` | none |
| several numbers, ranges: `3-4`, `3 to 4`, `3.4.5` | none |
| comma decimals and thousands: `3,5`, `1,000` | none: they mean two things |
| percentages, exponents, hexadecimal, `nan`, `inf`: `70%`, `1e3`, `0x3` | none |
| no digit before the point: `.5` | none |
| digits, signs or points of another script, superscripts, fractions: `٣`, `½`, `3²` | none |
| comparisons and other words: `<3`, `at least 3`, `~3`, `not 3` | none |
| null characters, half surrogates, invisible characters | none |
| more than 200 characters | none: prose, not an answer |
| a number outside of the accepted range (`accepted_range`) | none |

An unparsable answer is invalid and never becomes a number. All steps are linear in the length of
the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

AnswerFormat = Literal["think_answer", "answer", "free"]

ScoreRange = tuple[float, float]
"""Lowest and highest score that the prompt asks for."""

ASKED_RANGE: ScoreRange = (1.0, 5.0)
"""Scale of the published prompts."""

RANGE_MARGIN = 0.25
"""Share of the asked range by which a score may lie beyond either end. Released checkpoints give
scores somewhat below 1, and their order still tells quality; a `42` tells nothing."""

LONGEST_ANSWER = 200
"""Characters of an answer beyond which it is prose."""

_TAG = re.compile(r"</?answer>")
_NUMBER = r"[+-]?[0-9]{1,12}(?:\.[0-9]{1,20})?"
_WRAP = r"[\s*_`\"'()\[\]$]{0,200}"
_LABEL = r"[^\W\d](?:[^\W\d]|[\s*'\-]){0,80}?(?:\s{0,20}[:=]|\sis\b)"
_ANSWER = re.compile(
    rf"{_WRAP}(?:{_LABEL})?{_WRAP}(?P<score>{_NUMBER})\.?"
    rf"(?:\s{{0,200}}(?:/|out of)\s{{0,200}}(?P<top>[0-9]{{1,12}}(?:\.0{{1,20}})?))?{_WRAP}"
)
_LONE_NUMBER = re.compile(rf"({_NUMBER})\.?")
_BETWEEN = re.compile(r"</think>\s*<answer>")
_OPEN, _CLOSE = "<answer>", "</answer>"


@dataclass(frozen=True)
class Answer:
    """What one response says.

    Attributes:
        score: the stated score, or None when none can be read without guessing.
        reasoning: text between `<think>` and `</think>`, or None.
        well_formed: the whole response has the demanded format.
    """

    score: float | None
    reasoning: str | None
    well_formed: bool


def accepted_range(score_range: ScoreRange) -> ScoreRange:
    """Scores that are taken for an asked range: a quarter of its width beyond either end.

    `(1, 5)` accepts 0 to 6, both included. Everything that takes scores takes this range: answers
    (`parse_answer`), and the numbers of an expected score (`vqr1.iqa.number_grammar`).
    """
    low, high = score_range
    margin = RANGE_MARGIN * (high - low)
    return low - margin, high + margin


def accepted_score(number: str, score_range: ScoreRange) -> float | None:
    """The value of a number in digits, None where it lies outside of the accepted range."""
    value = float(number)
    low, high = accepted_range(score_range)
    return value if low <= value <= high else None


def parse_answer(
    text: str,
    answer_format: AnswerFormat = "think_answer",
    score_range: ScoreRange = ASKED_RANGE,
) -> Answer:
    r"""Read score, reasoning and format of one response; never raises on any string.

    Args:
        text: the decoded response, special tokens left out.
        answer_format: the form asked for; `think_answer` is the published rule, the whole response
            matches `<think>.*?</think>\s*<answer>.*?</answer>` (dot matches newline).
        score_range: the scale asked for, lowest first.
    """
    return Answer(
        score=_score(text, score_range),
        reasoning=_reasoning(text),
        well_formed=_well_formed(text, answer_format),
    )


def _score(text: str, score_range: ScoreRange) -> float | None:
    said = text.rpartition("</think>")[2]
    if _OPEN not in said and _CLOSE not in said:
        lone = _LONE_NUMBER.fullmatch(text.strip()) if len(text) <= LONGEST_ANSWER else None
        return None if lone is None else accepted_score(lone[1], score_range)
    content = _last_content(said)
    if content is None or len(content) > LONGEST_ANSWER:
        return None
    if any(sign.isnumeric() and not sign.isascii() for sign in content):
        return None
    match = _ANSWER.fullmatch(content)
    if match is None or (match["top"] is not None and float(match["top"]) != score_range[1]):
        return None
    return accepted_score(match["score"], score_range)


def _last_content(text: str) -> str | None:
    """What the last pair without another one in it holds; None where tags do not pair up."""
    content: tuple[int, int] | None = None
    opened: int | None = None  # where the content of the tag just before begins, if it opened one
    depth = 0
    for tag in _TAG.finditer(text):
        if tag[0] == _OPEN:
            depth, opened = depth + 1, tag.end()
            continue
        depth -= 1
        if depth < 0:
            return None
        if opened is not None:
            content, opened = (opened, tag.start()), None
    return None if content is None or depth else text[slice(*content)]


def _reasoning(text: str) -> str | None:
    start = text.find("<think>")
    if start < 0:
        return None
    close = text.find("</think>", start)
    return None if close < 0 else text[start + len("<think>") : close].strip()


def _well_formed(text: str, answer_format: AnswerFormat) -> bool:
    """The published patterns, without their backtracking: between fixed ends anything may stand."""
    if answer_format == "free":
        return True
    if not text.endswith(_CLOSE):
        return False
    end = len(text) - len(_CLOSE)
    if answer_format == "answer":
        return text.startswith(_OPEN) and end >= len(_OPEN)
    return text.startswith("<think>") and bool(_BETWEEN.search(text, len("<think>"), end))
