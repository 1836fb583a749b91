"""Keys of a JSON object: a score, further scores and words; bare, in a fence, or between tags."""

from __future__ import annotations

from typing import Annotated, Any

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
    ScoreRange,
    Span,
    TagName,
    accepted_score,
)
from vqr1.iqa.answers.json_fields import (
    Digits,
    object_span,
    read_object,
    value_at,
    value_spans,
)
from vqr1.iqa.answers.number import lone_number
from vqr1.iqa.answers.tags import after_reasoning, enclosed, last_pair, reasoning_span

KeyPath = Annotated[str, Field(pattern=r"^[^\s.\"\\{}:,]{1,40}(?:\.[^\s.\"\\{}:,]{1,40}){0,3}$")]
"""A key, or keys of nested objects with points between them: `reasoning.evidence`."""


@dataclass(config=STRICT, kw_only=True, frozen=True)
class JsonAnswer(AnswerForm):
    """A JSON object with the score under one of its keys."""

    key: KeyPath = "rating"
    """Key of the score: a number, or a string that holds one plain number."""
    tag: TagName | None = None
    """Tags around the object; null: the object is all that is there after the reasoning."""
    reasoning: TagName | None = None
    """Tags around the reasoning that comes before; null asks for none."""
    scores: tuple[KeyPath, ...] = ()
    """Keys of further scores, on the same scale (`Answer.attributes`)."""
    words: tuple[KeyPath, ...] = ()
    """Keys of texts, such as a class of distortion (`Answer.attributes`)."""
    score_range: RisingRange = ASKED_RANGE
    """Lowest and highest score that the prompt asks for; see `TaggedAnswer`."""

    @field_validator("words")
    @classmethod
    def _once(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        names = [info.data.get("key"), *info.data.get("scores", ()), *value]
        if len(set(names)) != len(names):
            raise ValueError("key, scores and words must all be different keys")
        return value

    @property
    def reasons(self) -> bool:
        """Reasoning is written before the answer."""
        return self.reasoning is not None

    @property
    def attributes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the further scores and texts."""
        return (*self.scores, *self.words)

    @property
    def fields(self) -> tuple[str, ...]:
        """`score`, `reasoning`, and the keys by their (dotted) names."""
        return (*super().fields, self.key)

    @property
    def opening(self) -> str | None:  # type: ignore[override]
        """The score's key; None where it is in an object of the object."""
        return None if "." in self.key else f'"{self.key}":'

    @property
    def beginning(self) -> str | None:
        """The object's beginning with the score's key."""
        if self.opening is None:
            return None
        return ("" if self.tag is None else f"<{self.tag}>") + "{" + self.opening

    @property
    def spaced(self) -> bool:  # type: ignore[override]
        """A blank follows the colon, or does not."""
        return True

    @property
    def score_ends(self) -> tuple[str, ...]:
        """What follows a value in JSON."""
        return ("}", ",", "\n")

    @property
    def closing(self) -> str | None:  # type: ignore[override]
        """The closing tag; of a bare object without another in it the brace, if nothing precedes.

        Braces may stand in the text of reasoning.
        """
        if self.tag is not None:
            return f"</{self.tag}>"
        nested = any("." in name for name in (self.key, *self.attributes))
        return None if nested or self.reasons else "}"

    @property
    def first_tags(self) -> tuple[str, str] | None:
        """The tags of the reasoning."""
        return None if self.reasoning is None else (f"<{self.reasoning}>", f"</{self.reasoning}>")

    def response_of(self, score: str) -> str | None:
        """See `AnswerForm.response_of`; None where further values are asked for too."""
        if self.reasons or self.opening is None or self.attributes:
            return None
        end = "}" if self.tag is None else f"}}</{self.tag}>"
        return f"{self.beginning} {score}{end}"

    def parse(self, text: str) -> Answer:
        """See `AnswerForm.parse` and the table of this package."""
        aside = reasoning_span(text, self.reasoning)
        place = self._object(text)
        values = None if place is None else read_object(text[slice(*place)])
        scores = {name: _score(value_at(values, name), self.score_range) for name in self.scores}
        words = {name: _words(value_at(values, name)) for name in self.words}
        return Answer(
            score=_score(value_at(values, self.key), self.score_range),
            reasoning=None if aside is None else text[slice(*aside)].strip(),
            format_compliant=self._is_compliant(text, values),
            attributes={**scores, **words},
        )

    def spans(self, text: str) -> dict[str, Span]:
        """`score`, `reasoning`, and every key by its (dotted) name."""
        found: dict[str, Span] = {}
        aside = reasoning_span(text, self.reasoning)
        if aside is not None:
            found[REASONING] = aside
        place = self._object(text)
        if place is None or read_object(text[slice(*place)]) is None:
            return found
        keys = value_spans(text, *place)
        found |= keys
        if self.key in keys:
            found[SCORE] = keys[self.key]
        return found

    def _object(self, text: str) -> Span | None:
        """Where the object should stand."""
        start = after_reasoning(text, self.reasoning)
        place = (start, len(text)) if self.tag is None else last_pair(text, self.tag, start)
        return None if place is None else object_span(text, *place)

    def _is_compliant(self, text: str, values: Any) -> bool:
        """Reasoning and tags as asked for, and every key there."""
        names = (self.key, *self.scores, *self.words)
        if any(value_at(values, name) is None for name in names):
            return False
        if self.tag is not None:
            return enclosed(text, self.reasoning, f"<{self.tag}>", f"</{self.tag}>")
        start = after_reasoning(text, self.reasoning)
        if self.reasoning is None:
            return start == 0
        return start > 0 and text.startswith(f"<{self.reasoning}>")


def _score(value: Any, score_range: ScoreRange) -> float | None:
    """The score that a value of JSON states."""
    if not isinstance(value, str):
        return None
    number = lone_number(value)
    if number is None or (isinstance(value, Digits) and number != value):
        return None
    return accepted_score(number, score_range)


def _words(value: Any) -> str | None:
    return value.strip() if isinstance(value, str) and not isinstance(value, Digits) else None
