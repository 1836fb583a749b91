r"""From a response's text to its scores, or to the knowledge that it holds none, by an answer form.

| form | a response of exactly this form is format-compliant |
|---|---|
| `TaggedAnswer(reasoning="think")` (published) | `<think>.*?</think>\s*<answer>.*?</answer>` |
| `TaggedAnswer()` | `<answer>.*?</answer>` |
| `TaggedAnswer(tag="rating", reasoning="why")` | `<why>.*?</why>\s*<rating>.*?</rating>` |
| `FreeText()`: a description, without a score | any text |

Where `TaggedAnswer` looks (with its own tags): after the last `</think>`, in the whole response
without one.

| there | score |
|---|---|
| `<answer>...</answer>`, once or repeated | what the LAST one states |
| nested `<answer><answer>4</answer></answer>` | what the innermost one states |
| tags that do not pair up: unclosed, closed twice, a second answer that was cut off | none |
| no answer tag at all, and the whole response is one plain number | that number |
| anything else: prose, other spellings of the tags, nothing | none |

What counts as a number inside the tags:

| content | score |
|---|---|
| one plain number: `3.42`, `+3`, `3.`, `03.50` | it |
| the same after a label that ends in `:`, `=` or `is`: `Score: 3.42` | it |
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

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, ClassVar

from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass as checked_dataclass

ScoreRange = tuple[float, float]
"""Lowest and highest score that the prompt asks for."""

ASKED_RANGE: ScoreRange = (1.0, 5.0)
"""Scale of the published prompts."""

RANGE_MARGIN = 0.25
"""Share of the asked range by which a score may lie beyond either end. Released checkpoints give
scores somewhat below 1, and their order still follows quality; a `42` does not."""

LONGEST_ANSWER = 200
"""Characters of an answer beyond which it is prose."""

_NUMBER = r"[+-]?[0-9]{1,12}(?:\.[0-9]{1,20})?"
_WRAP = r"[\s*_`\"'()\[\]$]{0,200}"
_LABEL = r"[^\W\d](?:[^\W\d]|[\s*'\-]){0,80}?(?:\s{0,20}[:=]|\sis\b)"
_ANSWER = re.compile(
    rf"{_WRAP}(?:{_LABEL})?{_WRAP}(?P<score>{_NUMBER})\.?"
    rf"(?:\s{{0,200}}(?:/|out of)\s{{0,200}}(?P<top>[0-9]{{1,12}}(?:\.0{{1,20}})?))?{_WRAP}"
)
_LONE_NUMBER = re.compile(rf"({_NUMBER})\.?")
_THINK = "think"
"""Tag of reasoning that is passed over where none is asked for."""

Span = tuple[int, int]
"""First character of a field of a response's text, and the one after its last."""

SCORE, REASONING = "score", "reasoning"
"""Names of the fields of a tagged answer (`AnswerForm.spans`)."""


def _rising(values: ScoreRange) -> ScoreRange:
    if not all(map(math.isfinite, values)) or values[0] >= values[1]:
        raise ValueError("must be two finite numbers, the lower one first")
    return values


TagName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,39}$")]
RisingRange = Annotated[ScoreRange, AfterValidator(_rising)]
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Answer:
    """What one response states.

    Attributes:
        score: the stated score that is ranked, or None when none can be read without guessing.
        reasoning: the text between the tags of reasoning, or None.
        format_compliant: the whole response has the required format.
        attributes: scores of further attributes that the form asks for, by name; None where one
            cannot be read.
    """

    score: float | None
    reasoning: str | None
    format_compliant: bool
    attributes: Mapping[str, float | None] = field(default_factory=dict)


class AnswerForm(ABC):
    """How a response has to be written, and how it is read (`conf/answer`).

    A form of your own needs no change here: a subclass, named by `_target_` in a YAML file under
    `conf/answer/`, whose further keys are its arguments.

    Attributes:
        score_range: lowest and highest score that the prompt asks for.
        scored: False where a response holds no score: a description.
        reasons: reasoning is written before the answer.
        opening: the text after which the score begins, None where no fixed text stands before it.
        closing: the text that ends an answer, None where none does.
    """

    score_range: ScoreRange = ASKED_RANGE
    scored: ClassVar[bool] = True
    opening: str | None = None
    closing: str | None = None

    @property
    def reasons(self) -> bool:
        """Reasoning is written before the answer."""
        return False

    @abstractmethod
    def parse(self, text: str) -> Answer:
        """Read a decoded response, special tokens excluded; never raises on any string.

        Linear in the length of the text. What cannot be read without guessing is None.
        """

    def spans(self, text: str) -> Mapping[str, Span]:
        """Where each field of a response stands in its text; fields that are missing have none."""
        return {}


def accepted_range(score_range: ScoreRange) -> ScoreRange:
    """Scores that are taken for an asked range: a quarter of its width beyond either end.

    `(1, 5)` accepts 0 to 6, both included. Everything that takes scores takes this range: answers
    (`AnswerForm.parse`), and the numbers of an expected score (`vqr1.iqa.number_grammar`).
    """
    low, high = score_range
    margin = RANGE_MARGIN * (high - low)
    return low - margin, high + margin


def accepted_score(number: str, score_range: ScoreRange) -> float | None:
    """The value of a number in digits, None where it lies outside of the accepted range."""
    value = float(number)
    low, high = accepted_range(score_range)
    return value if low <= value <= high else None


@checked_dataclass(config=_STRICT, kw_only=True, frozen=True)
class TaggedAnswer(AnswerForm):
    """One number between tags, after reasoning between tags where it is asked for."""

    tag: TagName = "answer"
    """Name of the tags around the score."""
    reasoning: TagName | None = None
    """Name of the tags around the reasoning that comes before; null asks for none."""
    score_range: RisingRange = ASKED_RANGE
    """Lowest and highest score that the prompt asks for. An answer may lie beyond either end by a
    quarter of the range (0 to 6 for 1 to 5); farther out it is invalid. Rewards see scores scaled
    from it to [1, 5]."""

    @field_validator("reasoning")
    @classmethod
    def _another_name(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and value == info.data.get("tag"):
            raise ValueError("must be another name than that of the tags around the score")
        return value

    @property
    def reasons(self) -> bool:
        """Reasoning is written before the answer."""
        return self.reasoning is not None

    @property
    def opening(self) -> str:  # type: ignore[override]
        """The tag after which the score begins."""
        return f"<{self.tag}>"

    @property
    def closing(self) -> str:  # type: ignore[override]
        """The tag that ends an answer."""
        return f"</{self.tag}>"

    def parse(self, text: str) -> Answer:
        """See `AnswerForm.parse` and the tables of this module."""
        aside = self._aside(text)
        return Answer(
            score=self._score(text),
            reasoning=None if aside is None else text[slice(*aside)].strip(),
            format_compliant=self._is_compliant(text),
        )

    def spans(self, text: str) -> dict[str, Span]:
        """`score`: what the last answer holds, or the lone number; `reasoning`: what its tags hold.

        Whether the score is a number that is accepted does not matter.
        """
        found = {REASONING: self._aside(text), SCORE: self._content(text)}
        return {name: span for name, span in found.items() if span is not None}

    @cached_property
    def _tags(self) -> re.Pattern[str]:
        return re.compile(f"</?{self.tag}>")

    @cached_property
    def _between(self) -> re.Pattern[str]:
        return re.compile(rf"</{self.reasoning}>\s*<{self.tag}>")

    def _score(self, text: str) -> float | None:
        span = self._content(text)
        if span is None:
            return None
        content = text[slice(*span)]
        if not self._is_tagged(text):
            return accepted_score(content, self.score_range)
        if len(content) > LONGEST_ANSWER:
            return None
        if any(sign.isnumeric() and not sign.isascii() for sign in content):
            return None
        match = _ANSWER.fullmatch(content)
        top = self.score_range[1]
        if match is None or (match["top"] is not None and float(match["top"]) != top):
            return None
        return accepted_score(match["score"], self.score_range)

    def _said_from(self, text: str) -> int:
        """Where the text after the reasoning begins."""
        end = f"</{self.reasoning or _THINK}>"
        last = text.rfind(end)
        return 0 if last < 0 else last + len(end)

    def _is_tagged(self, text: str) -> bool:
        start = self._said_from(text)
        return text.find(self.opening, start) >= 0 or text.find(self.closing, start) >= 0

    def _content(self, text: str) -> Span | None:
        """What the last answer holds; None where tags do not pair up, or nothing is answered."""
        if self._is_tagged(text):
            return self._last_pair(text, self._said_from(text))
        lone = text.strip()
        match = _LONE_NUMBER.fullmatch(lone) if len(text) <= LONGEST_ANSWER else None
        if match is None:
            return None
        start = text.index(lone)
        return start, start + len(match[1])

    def _last_pair(self, text: str, start: int) -> Span | None:
        """What the last pair without another one in it holds."""
        content: Span | None = None
        opened: int | None = None  # where the content of the tag just before begins, if it opened
        depth = 0
        for tag in self._tags.finditer(text, start):
            if tag[0] == self.opening:
                depth, opened = depth + 1, tag.end()
                continue
            depth -= 1
            if depth < 0:
                return None
            if opened is not None:
                content, opened = (opened, tag.start()), None
        return None if depth else content

    def _aside(self, text: str) -> Span | None:
        """What the tags of reasoning hold."""
        name = self.reasoning or _THINK
        start = text.find(f"<{name}>")
        if start < 0:
            return None
        close = text.find(f"</{name}>", start)
        return None if close < 0 else (start + len(name) + 2, close)

    def _is_compliant(self, text: str) -> bool:
        """The published patterns, without their backtracking: anything between fixed ends."""
        if not text.endswith(self.closing):
            return False
        end = len(text) - len(self.closing)
        if self.reasoning is None:
            return text.startswith(self.opening) and end >= len(self.opening)
        start = f"<{self.reasoning}>"
        return text.startswith(start) and bool(self._between.search(text, len(start), end))


@checked_dataclass(config=_STRICT, kw_only=True, frozen=True)
class FreeText(AnswerForm):
    """Any text, without a score: a description."""

    scored: ClassVar[bool] = False

    def parse(self, text: str) -> Answer:
        """See `AnswerForm.parse`: no score, and always format-compliant."""
        return Answer(score=None, reasoning=None, format_compliant=True)


PUBLISHED = TaggedAnswer(reasoning="think")
"""The form of the published prompt."""
