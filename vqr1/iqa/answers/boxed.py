r"""One number in `\boxed{}`, after any text or none."""

from __future__ import annotations

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
from vqr1.iqa.answers.tags import after_reasoning, reasoning_span

OPENING, CLOSING = r"\boxed{", "}"


@dataclass(config=STRICT, kw_only=True, frozen=True)
class BoxedAnswer(AnswerForm):
    r"""One number in the last `\boxed{}`."""

    reasoning: TagName | None = None
    """Tags around the reasoning; null: `thinks` states whether there is any."""
    thinks: bool = True
    """Reasoning without tags is written before the box."""
    score_range: RisingRange = ASKED_RANGE
    """Lowest and highest score that the prompt asks for; see `TaggedAnswer`."""

    @property
    def reasons(self) -> bool:
        """Reasoning is written before the answer."""
        return self.thinks or self.reasoning is not None

    @property
    def opening(self) -> str:  # type: ignore[override]
        """The text after which the score begins."""
        return OPENING

    @property
    def closing(self) -> str | None:  # type: ignore[override]
        """The brace, where nothing else is written that may hold one."""
        return None if self.reasons else CLOSING

    @property
    def score_ends(self) -> tuple[str, ...]:
        """The brace."""
        return (CLOSING,)

    @property
    def first_tags(self) -> tuple[str, str] | None:
        """The tags of the reasoning."""
        return None if self.reasoning is None else (f"<{self.reasoning}>", f"</{self.reasoning}>")

    def parse(self, text: str) -> Answer:
        """See `AnswerForm.parse` and the table of this package."""
        spans = self.spans(text)
        place, aside = spans.get(SCORE), spans.get(REASONING)
        return Answer(
            score=None if place is None else stated_score(text[slice(*place)], self.score_range),
            reasoning=None if aside is None else text[slice(*aside)].strip(),
            format_compliant=place is not None and self._is_compliant(text, place),
        )

    def spans(self, text: str) -> dict[str, Span]:
        """`score`: what the last box holds; `reasoning`: what its tags hold, or stands before."""
        start = after_reasoning(text, self.reasoning)
        opened = text.rfind(OPENING, start)
        closed = -1 if opened < 0 else text.find(CLOSING, opened)
        found: dict[str, Span] = {}
        if closed >= 0:
            found[SCORE] = (opened + len(OPENING), closed)
        aside = reasoning_span(text, self.reasoning)
        if aside is None and self.thinks and self.reasoning is None and opened > 0:
            aside = (0, opened)
        if aside is not None:
            found[REASONING] = aside
        return found

    def _is_compliant(self, text: str, place: Span) -> bool:
        """The box ends the response (a point or `$` may follow), after reasoning if asked for."""
        if text[place[1] + 1 :].strip(" \n.$"):
            return False
        before = text[: place[0] - len(OPENING)]
        if self.reasoning is not None:
            return before.startswith(f"<{self.reasoning}>") and f"</{self.reasoning}>" in before
        return bool(before.strip()) == self.thinks
