"""Several numbers between tags, one a line: ratings of attributes, whose mean is the score."""

from __future__ import annotations

import re
import statistics
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass

from vqr1.iqa.answers.base import (
    ASKED_RANGE,
    REASONING,
    SCORE,
    STRICT,
    Answer,
    AnswerForm,
    RisingRange,
    Span,
    TagName,
)
from vqr1.iqa.answers.number import stated_score
from vqr1.iqa.answers.tags import after_reasoning, enclosed, last_pair, reasoning_span

LONGEST_RATINGS = 2_000
"""Characters of an answer beyond which it is prose."""

_LINE = re.compile(r"[^\n]+")


@dataclass(config=STRICT, kw_only=True, frozen=True)
class RatingsAnswer(AnswerForm):
    """Numbers between tags, one a line, in the order of `names`; their mean is the score."""

    names: Annotated[tuple[str, ...], Field(min_length=2)]
    """What the lines rate, in their order (`Answer.attributes`)."""
    tag: TagName = "answer"
    """Tags around the ratings."""
    reasoning: TagName | None = None
    """Tags around the reasoning that comes before; null asks for none."""
    score_range: RisingRange = ASKED_RANGE
    """Lowest and highest rating that the prompt asks for; see `TaggedAnswer`."""

    @field_validator("names")
    @classmethod
    def _different(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        del info
        if len(set(value)) < len(value) or {SCORE, REASONING} & set(value):
            raise ValueError("must be different names, and none of them score or reasoning")
        return value

    @property
    def reasons(self) -> bool:
        """Reasoning is written before the answer."""
        return self.reasoning is not None

    @property
    def attributes(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names."""
        return self.names

    @property
    def closing(self) -> str:  # type: ignore[override]
        """The closing tag."""
        return f"</{self.tag}>"

    @property
    def first_tags(self) -> tuple[str, str] | None:
        """The tags of the reasoning."""
        return None if self.reasoning is None else (f"<{self.reasoning}>", f"</{self.reasoning}>")

    def parse(self, text: str) -> Answer:
        """See `AnswerForm.parse` and the table of this package."""
        spans = self.spans(text)
        aside = spans.get(REASONING)
        ratings = {
            name: stated_score(text[slice(*spans[name])], self.score_range)
            for name in self.names
            if name in spans
        }
        known = [rating for rating in ratings.values() if rating is not None]
        whole = len(known) == len(self.names)
        return Answer(
            score=statistics.fmean(known) if whole else None,
            reasoning=None if aside is None else text[slice(*aside)].strip(),
            format_compliant=whole
            and enclosed(text, self.reasoning, f"<{self.tag}>", f"</{self.tag}>"),
            attributes={name: ratings.get(name) for name in self.names},
        )

    def spans(self, text: str) -> dict[str, Span]:
        """`score`: all lines; each line by its name, where there are as many as names."""
        found: dict[str, Span] = {}
        aside = reasoning_span(text, self.reasoning)
        if aside is not None:
            found[REASONING] = aside
        place = last_pair(text, self.tag, after_reasoning(text, self.reasoning))
        if place is None or place[1] - place[0] > LONGEST_RATINGS:
            return found
        lines = [m.span() for m in _LINE.finditer(text, *place) if m[0].strip()]
        if len(lines) == len(self.names):
            found |= {SCORE: place, **dict(zip(self.names, lines, strict=True))}
        return found
