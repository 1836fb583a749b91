r"""How the public code of a method reads a response: each rule a pure function of the text.

Where a method's configuration is to be exact, its quirks are part of it: the first answer counts
for one and the last for another, one wants each tag on a line of its own, another two decimals.
Every rule is restated here from its behaviour, without backtracking, so that it is linear in the
length of the text. A number that a rule reads may still be outside of the accepted range
(`PublishedAnswer`).

| rule | score | format-compliant |
|---|---|---|
| `q_insight` | "rating" in the first answer: digits and points | think and answer, each tag on a line of its own, a flat object |
| `q_insight_degradation` | none | the same |
| `q_insight_comparison` | none; the words of the first answer | the same with any text as the answer |
| `mr_iqa` | the last answer that is a number, alone or as rating; 1 to 5 | a number in an answer, after thought or none |
| `mr_iqa_thinking` | the same | thinking with text, then {"rating": number} |
| `q_hawkeye` | the first number alone in an answer, without a sign | think, then a number alone |
| `refine_iqa` | the last "Score: d.dd" in an answer | think with text, which such an answer ends |
| `preresq` | mean of five lines, each a number in the accepted range | think, then five such lines, and nothing after |
| `tatar` | the number that the first answer is, perhaps in a fence | as the score |
| `zoom_iqa` | "rating" of the object in the answer: a number, or one in quotes | as the score |

The repositories are named at the head of each `conf/method/*.yaml`.
"""  # noqa: E501 - a table row cannot be broken

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vqr1.iqa.answers.base import Span

_PLAIN = re.compile(r"[+-]?[0-9]++(?:\.[0-9]++)?")
_UNSIGNED = re.compile(r"\s*+([0-9]++(?:\.[0-9]++)?)\s*+")
_RATING = re.compile(r'"rating"\s*+:\s*+([0-9.]++)')
_MR_RATING = re.compile(r'\{?\s*+"?rating"?\s*+:\s*+([+-]?[0-9]++(?:\.[0-9]++)?)\s*+\}?', re.I)
_MR_JSON = re.compile(r'\s*+\{\s*+"rating"\s*+:\s*+[+-]?[0-9]++(?:\.[0-9]++)?\s*+\}\s*+', re.I)
_TWO_DECIMALS = re.compile(r"Score: ([0-9]\.[0-9]{2})")
_LINE_NUMBER = re.compile(r"\s*+[0-9]++(?:\.[0-9]*+)?\s*+")
_FENCED = re.compile(r"```[a-zA-Z]*+\s*+(.*)```", re.DOTALL)
_OBJECT_LINES = re.compile(r"\n++<answer>\n++\{[^{}]*+\}\n++</answer>\s*+")
_ANSWER_LINES = re.compile(r"\n</think>\n++<answer>\n")

RATINGS = 5
"""Lines of an answer of PreResQ-R1."""


@dataclass(frozen=True)
class Read:
    """What a rule found.

    Attributes:
        value: the number.
        span: where it stands.
    """

    value: float
    span: Span


@dataclass(frozen=True)
class Rule:
    """How one method's public code reads a response.

    Attributes:
        score: reads the number, or None.
        compliant: whether the response has the required format.
        reasoning: name of the tags around the reasoning.
        reasons: the prompt asks for reasoning.
        scored: an answer holds a score.
    """

    score: Callable[[str], Read | None]
    compliant: Callable[[str], bool]
    reasoning: str = "think"
    reasons: bool = True
    scored: bool = True


def answer_blocks(text: str, *, any_case: bool = False) -> Iterator[Span]:
    """What each pair of answer tags holds: from an opening to the next closing one."""
    searched = text.lower() if any_case and len(text.lower()) == len(text) else text
    end = 0
    while (start := searched.find("<answer>", end)) >= 0:
        close = searched.find("</answer>", start)
        if close < 0:
            return
        yield start + len("<answer>"), close
        end = close + len("</answer>")


def first_answer(text: str) -> str | None:
    """The words of the first answer, without blanks around them."""
    span = next(answer_blocks(text), None)
    return None if span is None else text[slice(*span)].strip()


def _q_insight_score(text: str) -> Read | None:
    span = next(answer_blocks(text), None)
    found = None if span is None else _RATING.search(text, *span)
    if found is None or found[1].count(".") > 1 or found[1] == ".":
        return None
    return Read(float(found[1]), found.span(1))


def _q_insight_format(text: str) -> bool:
    brace = text.rfind("{")
    end = text.rfind("\n</think>", len("<think>\n"), max(brace, 0))
    if end < 0 or not text.startswith("<think>\n"):
        return False
    return _OBJECT_LINES.fullmatch(text, end + len("\n</think>")) is not None


def comparison_format(text: str) -> bool:
    """Whether a response to Q-Insight's comparison has the required format."""
    body = text.rstrip()
    if not (text.startswith("<think>\n") and body.endswith("\n</answer>")):
        return False
    end = len(body) - len("\n</answer>")
    return _ANSWER_LINES.search(body, len("<think>\n"), end) is not None


def _mr_iqa_score(text: str) -> Read | None:
    for start, end in reversed(list(answer_blocks(text, any_case=True))):
        content = text[start:end]
        first = start + len(content) - len(content.lstrip())
        stripped = content.strip()
        if _PLAIN.fullmatch(stripped):
            value, span = float(stripped), (first, first + len(stripped))
        elif found := _MR_RATING.fullmatch(text, first, first + len(stripped)):
            value, span = float(found[1]), found.span(1)
        else:
            continue
        return Read(value, span) if 1 <= value <= 5 else None
    return None


def _only_answer(text: str, start: int) -> str | None:
    """What the one answer holds that the text is from some place on, blanks aside."""
    rest = text[start:].strip()
    lowered = rest.lower()
    if not (lowered.startswith("<answer>") and lowered.endswith("</answer>")):
        return None
    content = rest[len("<answer>") : -len("</answer>")]
    return None if "<" in content else content


def _after(text: str, tag: str) -> int | None:
    """Where the text continues after a leading pair of tags with text in it; None without."""
    lead = len(text) - len(text.lstrip())
    if not text.startswith(f"<{tag}>", lead):
        return None
    close = text.rfind(f"</{tag}>")
    start = lead + len(tag) + 2
    return None if close < start or not text[start:close].strip() else close + len(tag) + 3


def _mr_iqa_format(text: str) -> bool:
    content = _only_answer(text, _after(text, "think") or 0)
    return content is not None and _PLAIN.fullmatch(content.strip()) is not None


def _mr_iqa_thinking_format(text: str) -> bool:
    start = _after(text, "thinking")
    content = None if start is None else _only_answer(text, start)
    return content is not None and _MR_JSON.fullmatch(content) is not None


def _q_hawkeye_score(text: str) -> Read | None:
    for span in answer_blocks(text, any_case=True):
        found = _UNSIGNED.fullmatch(text, *span)
        if found is not None:
            return Read(float(found[1]), found.span(1))
    return None


def _q_hawkeye_format(text: str) -> bool:
    body = text.strip()
    close = body.rfind("</think>")
    if close < 0 or not body.startswith("<think>"):
        return False
    content = _only_answer(body, close + len("</think>"))
    return content is not None and _UNSIGNED.fullmatch(content) is not None


def _refine_iqa_score(text: str) -> Read | None:
    if not _refine_iqa_format(text):
        return None
    span = list(answer_blocks(text))[-1]
    found = _TWO_DECIMALS.fullmatch(text, *span)
    return None if found is None else Read(float(found[1]), found.span(1))


def _refine_iqa_format(text: str) -> bool:
    if _after(text, "think") is None or not text.endswith("</answer>"):
        return False
    blocks = list(answer_blocks(text))
    return bool(blocks) and _TWO_DECIMALS.fullmatch(text, *blocks[-1]) is not None


def preresq_ratings(text: str) -> list[float] | None:
    """The five ratings of a response, or None."""
    span = next(answer_blocks(text), None)
    if span is None:
        return None
    lines = [line for line in text[slice(*span)].split("\n") if line.strip()]
    if len(lines) != RATINGS or not all(_LINE_NUMBER.fullmatch(line) for line in lines):
        return None
    return [float(line) for line in lines]


def _preresq_score(text: str) -> Read | None:
    ratings = preresq_ratings(text)
    span = next(answer_blocks(text), None)
    return None if ratings is None or span is None else Read(statistics.fmean(ratings), span)


def _preresq_format(text: str) -> bool:
    close = text.find("</think>")
    if close < 0 or not text.startswith("<think>") or not text.endswith("</answer>"):
        return False
    rest = text[close + len("</think>") :].lstrip()
    return rest.startswith("<answer>") and preresq_ratings(rest) is not None


def _tatar_score(text: str) -> Read | None:
    span = next(answer_blocks(text), None)
    if span is None:
        return None
    content = text[slice(*span)].strip()
    fenced = _FENCED.fullmatch(content)
    number = (fenced[1] if fenced else content).strip()
    if not _PLAIN.fullmatch(number):
        return None
    start = text.index(number, span[0])
    return Read(float(number), (start, start + len(number)))


def _zoom_iqa_object(text: str) -> tuple[dict[str, object], Span] | None:
    span = next(answer_blocks(text), None)
    try:
        values = None if span is None else json.loads(text[slice(*span)])
    except (ValueError, RecursionError):
        return None
    return (values, span) if isinstance(values, dict) and span is not None else None


def _zoom_iqa_score(text: str) -> Read | None:
    found = _zoom_iqa_object(text)
    if found is None:
        return None
    rating = found[0].get("rating")
    if isinstance(rating, str) and _PLAIN.fullmatch(rating.strip()) is None:
        return None
    try:
        value = float(rating) if isinstance(rating, int | float | str) else math.nan
    except (ValueError, OverflowError):
        return None
    return Read(value, found[1]) if math.isfinite(value) else None


def requests_crop(text: str) -> bool | None:
    """Whether a response of Zoom-IQA asks for a crop; None where its answer lacks one of its keys.

    It does unless its tool is `final` or its box is all 0.
    """
    found = _zoom_iqa_object(text)
    if found is None or not {"bbox_2d", "rating", "tool"} <= found[0].keys():
        return None
    box = found[0]["bbox_2d"]
    if not isinstance(box, list | str | dict):
        return None
    return found[0]["tool"] != "final" and not all(corner == 0 for corner in box)


def _no_score(text: str) -> Read | None:
    del text
    return None


RULES: dict[str, Rule] = {
    "q_insight": Rule(_q_insight_score, _q_insight_format),
    "q_insight_degradation": Rule(_no_score, _q_insight_format, scored=False),
    "q_insight_comparison": Rule(_no_score, comparison_format, scored=False),
    "mr_iqa": Rule(_mr_iqa_score, _mr_iqa_format, reasons=False),
    "mr_iqa_thinking": Rule(_mr_iqa_score, _mr_iqa_thinking_format, reasoning="thinking"),
    "q_hawkeye": Rule(_q_hawkeye_score, _q_hawkeye_format),
    "refine_iqa": Rule(_refine_iqa_score, _refine_iqa_format),
    "preresq": Rule(_preresq_score, _preresq_format),
    "tatar": Rule(_tatar_score, lambda text: _tatar_score(text) is not None),
    "zoom_iqa": Rule(_zoom_iqa_score, lambda text: _zoom_iqa_score(text) is not None),
}
"""The rules by name."""
