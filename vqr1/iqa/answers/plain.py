"""One number and nothing else: the fewest tokens that can state a score."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from vqr1.iqa.answers.base import (
    ASKED_RANGE,
    SCORE,
    STRICT,
    Answer,
    AnswerForm,
    RisingRange,
    Span,
    accepted_score,
)
from vqr1.iqa.answers.number import lone_number


@dataclass(config=STRICT, kw_only=True, frozen=True)
class PlainAnswer(AnswerForm):
    """One plain number is the whole response; the end of the turn ends it."""

    score_range: RisingRange = ASKED_RANGE
    """Lowest and highest score that the prompt asks for; see `TaggedAnswer`."""

    def parse(self, text: str) -> Answer:
        """See `AnswerForm.parse`: a number with blanks or a full stop around it, else nothing."""
        number = lone_number(text)
        return Answer(
            score=None if number is None else accepted_score(number, self.score_range),
            reasoning=None,
            format_compliant=number is not None and text.strip() == number,
        )

    def spans(self, text: str) -> dict[str, Span]:
        """`score`: the number."""
        number = lone_number(text)
        if number is None:
            return {}
        start = text.index(number)
        return {SCORE: (start, start + len(number))}
