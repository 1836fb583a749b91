"""One of several words that stand for levels of quality, in a fixed sentence, in tags, or alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass

from vqr1.iqa.answers.base import (
    REASONING,
    SCORE,
    STRICT,
    Answer,
    AnswerForm,
    ScoreRange,
    Span,
    TagName,
)
from vqr1.iqa.answers.number import LONGEST_ANSWER
from vqr1.iqa.answers.tags import after_reasoning, enclosed, has_tag, last_pair, reasoning_span

FIVE_LEVELS = {"excellent": 5.0, "good": 4.0, "fair": 3.0, "poor": 2.0, "bad": 1.0}
"""Levels of ITU-R BT.500 with the scores of Q-Align and DeQA-Score."""

_WRAP = r"[\s*_`\"'().]{0,100}"


def several_words(values: dict[str, float]) -> dict[str, float]:
    """The words, checked to be a scale.

    Raises:
        ValueError: fewer than two words or scores, or words that differ by capitals only.
    """
    if len(values) < 2 or len(set(values.values())) < 2:
        raise ValueError("must be two or more words with different scores")
    if len({word.casefold() for word in values}) < len(values):
        raise ValueError("two words differ by capitals only")
    return values


Word = Annotated[str, Field(pattern=r"^[^\W\d_](?:[^\W\d_]|[ '-]){0,39}$")]


@dataclass(config=STRICT, kw_only=True, frozen=True)
class LevelAnswer(AnswerForm):
    """One word out of a scale of words."""

    levels: Annotated[dict[Word, float], AfterValidator(several_words)] = Field(
        default_factory=lambda: dict(FIVE_LEVELS)
    )
    """The words, with the scores that they stand for."""
    stem: str | None = None
    """Beginning of the sentence that the word ends ("The quality of the image is"); null: the word
    is all that is there, or all that the tags hold."""
    tag: TagName | None = None
    """Tags around the word; null: none."""
    reasoning: TagName | None = None
    """Tags around the reasoning that comes before; null asks for none."""

    @field_validator("tag")
    @classmethod
    def _one_of_both(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("stem") is not None:
            raise ValueError("stem and tag are two places for the word; set one of them to null")
        return value

    @property
    def score_range(self) -> ScoreRange:  # type: ignore[override]
        """The scores of the lowest and the highest level."""
        return min(self.levels.values()), max(self.levels.values())

    @property
    def reasons(self) -> bool:
        """Reasoning is written before the answer."""
        return self.reasoning is not None

    @property
    def opening(self) -> str | None:  # type: ignore[override]
        """The stem, or the opening tag."""
        if self.stem is not None:
            return self.stem.rstrip()
        return None if self.tag is None else f"<{self.tag}>"

    @property
    def closing(self) -> str | None:  # type: ignore[override]
        """The closing tag."""
        return None if self.tag is None else f"</{self.tag}>"

    @property
    def score_ends(self) -> tuple[str, ...]:
        """Nothing: as published, what follows the word is not looked at."""
        return ()

    @property
    def spaced(self) -> bool:  # type: ignore[override]
        """A blank stands between stem and word, none between tag and word."""
        return self.stem is not None

    @property
    def first_tags(self) -> tuple[str, str] | None:
        """The tags of the reasoning."""
        return None if self.reasoning is None else (f"<{self.reasoning}>", f"</{self.reasoning}>")

    @cached_property
    def _word(self) -> re.Pattern[str]:
        words = "|".join(re.escape(word) for word in self.levels)
        return re.compile(rf"{_WRAP}(?P<word>{words}){_WRAP}", re.IGNORECASE)

    @cached_property
    def _scores(self) -> Mapping[str, float]:
        return {word.casefold(): score for word, score in self.levels.items()}

    def response_of(self, score: str) -> str | None:
        """See `AnswerForm.response_of`; a sentence ends in a full stop, as published."""
        written = super().response_of(score)
        return written if written is None or self.stem is None else written + "."

    def parse(self, text: str) -> Answer:
        """See `AnswerForm.parse` and the table of this package."""
        spans = self.spans(text)
        place, aside = spans.get(SCORE), spans.get(REASONING)
        score = None if place is None else self._scores.get(text[slice(*place)].casefold())
        return Answer(
            score=score,
            reasoning=None if aside is None else text[slice(*aside)].strip(),
            format_compliant=score is not None and self._is_compliant(text),
        )

    def spans(self, text: str) -> dict[str, Span]:
        """`score`: the word; `reasoning`: what its tags hold."""
        found: dict[str, Span] = {}
        aside = reasoning_span(text, self.reasoning)
        if aside is not None:
            found[REASONING] = aside
        start = after_reasoning(text, self.reasoning)
        place: Span | None = (start, len(text))
        if self.tag is not None and has_tag(text, self.tag, start):
            place = last_pair(text, self.tag, start)
        elif self.stem is not None:
            at = text.rfind(self.stem.rstrip(), start)
            place = (start if at < 0 else at + len(self.stem.rstrip()), len(text))
        if place is None or place[1] - place[0] > LONGEST_ANSWER:
            return found
        match = self._word.fullmatch(text, *place)
        if match is not None:
            found[SCORE] = match.span("word")
        return found

    def _is_compliant(self, text: str) -> bool:
        """The sentence, tags or word alone, after reasoning if asked for."""
        if self.tag is not None:
            return enclosed(text, self.reasoning, f"<{self.tag}>", f"</{self.tag}>")
        start = after_reasoning(text, self.reasoning)
        if self.reasoning is not None and not (start and text.startswith(f"<{self.reasoning}>")):
            return False
        if self.reasoning is None and start:
            return False
        return self.stem is None or text[start:].lstrip().startswith(self.stem.rstrip())
