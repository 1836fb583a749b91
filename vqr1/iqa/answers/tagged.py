"""One number between tags, after reasoning between tags where it is asked for (published)."""

from __future__ import annotations

from pydantic import ValidationInfo, field_validator
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
    accepted_score,
)
from vqr1.iqa.answers.number import lone_number, stated_score
from vqr1.iqa.answers.tags import after_reasoning, enclosed, has_tag, last_pair, reasoning_span


@dataclass(config=STRICT, kw_only=True, frozen=True)
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

    @property
    def first_tags(self) -> tuple[str, str] | None:
        """The tags of the reasoning."""
        return None if self.reasoning is None else (f"<{self.reasoning}>", f"</{self.reasoning}>")

    def parse(self, text: str) -> Answer:
        """See `AnswerForm.parse` and the tables of this package."""
        aside = reasoning_span(text, self.reasoning)
        return Answer(
            score=self._score(text),
            reasoning=None if aside is None else text[slice(*aside)].strip(),
            format_compliant=enclosed(text, self.reasoning, self.opening, self.closing),
        )

    def spans(self, text: str) -> dict[str, Span]:
        """`score`: what the last answer holds, or the lone number; `reasoning`: what its tags hold.

        Whether the score is a number that is accepted does not matter.
        """
        found = {REASONING: reasoning_span(text, self.reasoning), SCORE: self._content(text)}
        return {name: span for name, span in found.items() if span is not None}

    def _score(self, text: str) -> float | None:
        span = self._content(text)
        if span is None:
            return None
        content = text[slice(*span)]
        if not has_tag(text, self.tag, after_reasoning(text, self.reasoning)):
            return accepted_score(content, self.score_range)
        return stated_score(content, self.score_range)

    def _content(self, text: str) -> Span | None:
        """What the last answer holds; None where tags do not pair up, or nothing is answered."""
        start = after_reasoning(text, self.reasoning)
        if has_tag(text, self.tag, start):
            return last_pair(text, self.tag, start)
        number = lone_number(text)
        if number is None:
            return None
        start = text.index(number)
        return start, start + len(number)


PUBLISHED = TaggedAnswer(reasoning="think")
"""The form of the published prompt."""
