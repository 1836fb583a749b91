"""Responses read exactly as the public code of a method reads them."""

from __future__ import annotations

from typing import ClassVar, Literal

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
    accepted_score,
)
from vqr1.iqa.answers.published_rules import RATINGS, RULES, Rule, preresq_ratings
from vqr1.iqa.answers.tags import reasoning_span

RuleName = Literal[
    "q_insight",
    "q_insight_degradation",
    "q_insight_comparison",
    "mr_iqa",
    "mr_iqa_thinking",
    "q_hawkeye",
    "refine_iqa",
    "preresq",
    "tatar",
    "zoom_iqa",
]
_WITH_RATING = {"q_insight", "mr_iqa_thinking", "zoom_iqa"}
_BEFORE = {"refine_iqa": "<answer>Score:", "preresq": None}


@dataclass(config=STRICT, kw_only=True, frozen=True)
class PublishedAnswer(AnswerForm):
    """The rules of one method's public code (`vqr1.iqa.answers.published_rules`)."""

    closing: ClassVar[str] = "</answer>"  # type: ignore[misc]

    rules: RuleName
    """The method. A number beyond the accepted range (`score_range`) is invalid here too."""
    score_range: RisingRange = ASKED_RANGE
    """Lowest and highest score that the prompt asks for; see `TaggedAnswer`."""

    @property
    def _rule(self) -> Rule:
        return RULES[self.rules]

    @property
    def reasons(self) -> bool:
        """Reasoning is written before the answer."""
        return self._rule.reasons

    @property
    def scored(self) -> bool:  # type: ignore[override]
        """An answer holds a score: not that of a further task."""
        return self._rule.scored

    @property
    def opening(self) -> str | None:  # type: ignore[override]
        """The text after which the score begins."""
        if self.rules in _WITH_RATING:
            return '"rating":'
        if not self.scored:
            return None
        return _BEFORE.get(self.rules, "<answer>")

    @property
    def score_ends(self) -> tuple[str, ...]:
        """What may follow the score."""
        if self.rules in _WITH_RATING:
            return ("}", ",", "\n")
        return ("</answer>",)

    @property
    def spaced(self) -> bool:  # type: ignore[override]
        """A blank may stand before the score."""
        return self.rules in _WITH_RATING or self.rules == "refine_iqa"

    @property
    def attributes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Of PreResQ-R1 its five ratings, which its prompt does not name."""
        count = RATINGS if self.rules == "preresq" else 0
        return tuple(f"rating_{n}" for n in range(1, count + 1))

    @property
    def fields(self) -> tuple[str, ...]:
        """`score` and `reasoning` where there are any; ratings have no place of their own."""
        return (*((SCORE,) if self.scored else ()), *((REASONING,) if self.reasons else ()))

    @property
    def first_tags(self) -> tuple[str, str] | None:
        """The tags of the reasoning."""
        name = self._rule.reasoning
        return (f"<{name}>", f"</{name}>") if self.reasons else None

    def parse(self, text: str) -> Answer:
        """See `AnswerForm.parse`; linear, as each of the rules is."""
        found = self._rule.score(text)
        aside = reasoning_span(text, self._rule.reasoning)
        score = None if found is None else accepted_score(repr(found.value), self.score_range)
        ratings = preresq_ratings(text) if self.rules == "preresq" else None
        if any(accepted_score(repr(one), self.score_range) is None for one in ratings or ()):
            score = ratings = None
        return Answer(
            score=score,
            reasoning=None if aside is None else text[slice(*aside)].strip(),
            format_compliant=self._rule.compliant(text),
            attributes=dict.fromkeys(self.attributes)
            if ratings is None
            else dict(zip(self.attributes, ratings, strict=True)),
        )

    def spans(self, text: str) -> dict[str, Span]:
        """`score`: the number that is read; `reasoning`: what its tags hold."""
        found = self._rule.score(text)
        places = {
            REASONING: reasoning_span(text, self._rule.reasoning),
            SCORE: None if found is None else found.span,
        }
        return {name: span for name, span in places.items() if span is not None}
