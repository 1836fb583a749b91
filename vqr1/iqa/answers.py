r"""From a response's text to a score, or to the knowledge that it holds none.

What counts as the answer, in this order:

| response | score |
|---|---|
| one or more `<answer>...</answer>` | the number in the LAST complete one |
| no complete `<answer>` element, the whole text is one number | that number |
| anything else (no tags, unclosed tag, prose) | none |

and what counts as a number inside it:

| content | score |
|---|---|
| exactly one number: `3.42`, `+3`, `Score: 3.42` | it |
| a number out of five: `3.5/5`, `3.5 out of 5` | the number before the 5 |
| several numbers, a range, none at all, a percentage, an exponent | none |
| a number beyond +-100 | none: no rating scale that the prompts name reaches it |

Numbers outside [1, 5] are kept: released checkpoints give them at times, and their order still
tells quality. An unparsable answer is invalid and never becomes a number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

AnswerFormat = Literal["think_answer", "answer", "free"]

SCORE_LIMIT = 100.0
"""Magnitude above which a number is no rating."""

# Only ASCII digits: other scripts' digits would need a rule for mixed numerals.
_NUMBER = r"[+-]?[0-9]{1,12}(?:\.[0-9]{1,12})?"
_LONE_NUMBER = re.compile(rf"\s*({_NUMBER})\s*")
_OUT_OF_FIVE = re.compile(rf"({_NUMBER})\s*(?:/|out of)\s*5(?:\.0+)?(?![0-9.%])", re.IGNORECASE)
_NUMERIC_RUN = re.compile(r"[0-9][0-9.,]*(?:[eE][+-]?[0-9]+)?%?")
_SIGNED_DECIMAL = re.compile(rf"(?<![0-9A-Za-z.,+\-])({_NUMBER})(?![0-9A-Za-z,%]|\.[0-9])")

_WELL_FORMED: dict[str, re.Pattern[str]] = {
    "think_answer": re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL),
    "answer": re.compile(r"<answer>.*?</answer>", re.DOTALL),
    "free": re.compile(r".*", re.DOTALL),
}


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


def parse_answer(text: str, answer_format: AnswerFormat = "think_answer") -> Answer:
    r"""Read score, reasoning and format of one response; never raises on any string.

    Args:
        text: the decoded response, special tokens left out.
        answer_format: the form asked for; `think_answer` is the published rule, the whole response
            matches `<think>.*?</think>\s*<answer>.*?</answer>` (dot matches newline).
    """
    answer = _last_element(text, "answer")
    score = _number_in(answer) if answer is not None else _lone_number(text)
    return Answer(
        score=score,
        reasoning=_first_element(text, "think"),
        well_formed=_WELL_FORMED[answer_format].fullmatch(text) is not None,
    )


def _last_element(text: str, tag: str) -> str | None:
    """Content of the last complete `<tag>...</tag>`; str.find keeps this linear in the text."""
    close = text.rfind(f"</{tag}>")
    if close < 0:
        return None
    start = text.rfind(f"<{tag}>", 0, close)
    return None if start < 0 else text[start + len(tag) + 2 : close]


def _first_element(text: str, tag: str) -> str | None:
    start = text.find(f"<{tag}>")
    if start < 0:
        return None
    close = text.find(f"</{tag}>", start)
    return None if close < 0 else text[start + len(tag) + 2 : close].strip()


def _lone_number(text: str) -> float | None:
    match = _LONE_NUMBER.fullmatch(text)
    return _bounded(match.group(1)) if match else None


def _number_in(content: str) -> float | None:
    runs = _NUMERIC_RUN.findall(content)
    if len(runs) == 1:
        match = _SIGNED_DECIMAL.search(content)
        return _bounded(match.group(1)) if match else None
    if len(runs) == 2:
        match = _OUT_OF_FIVE.search(content)
        return _bounded(match.group(1)) if match else None
    return None


def _bounded(number: str) -> float | None:
    value = float(number)
    return value if abs(value) <= SCORE_LIMIT else None
