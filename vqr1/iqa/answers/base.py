"""What an answer form is, and what it reads from a response.

Not here: the forms, one a file of this package; numbers in digits (`number.py`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from pydantic import AfterValidator, ConfigDict, Field

ScoreRange = tuple[float, float]
"""Lowest and highest score that the prompt asks for."""

ASKED_RANGE: ScoreRange = (1.0, 5.0)
"""Scale of the published prompts."""

RANGE_MARGIN = 0.25
"""Share of the asked range by which a score may lie beyond either end. Released checkpoints give
scores somewhat below 1, and their order still follows quality; a `42` does not."""

Span = tuple[int, int]
"""First character of a field of a response's text, and the one after its last."""

SCORE, REASONING = "score", "reasoning"
"""Names of the fields that most forms have (`AnswerForm.spans`)."""


def _rising(values: ScoreRange) -> ScoreRange:
    if not all(map(math.isfinite, values)) or values[0] >= values[1]:
        raise ValueError("must be two finite numbers, the lower one first")
    return values


TagName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,39}$")]
RisingRange = Annotated[ScoreRange, AfterValidator(_rising)]
STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Answer:
    """What one response states.

    Attributes:
        score: the stated score that is ranked, or None when none can be read without guessing.
        reasoning: the text between the tags of reasoning, or None.
        format_compliant: the whole response has the required format.
        attributes: what is stated of further attributes that the form asks for, by name: a number,
            or words; None where one cannot be read.
    """

    score: float | None
    reasoning: str | None
    format_compliant: bool
    attributes: Mapping[str, float | str | None] = field(default_factory=dict)


class AnswerForm(ABC):
    """How a response has to be written, and how it is read (`conf/answer`).

    A form of your own needs no change here: a subclass, named by `_target_` in a YAML file under
    `conf/answer/`, whose further keys are its arguments.

    Attributes:
        score_range: lowest and highest score that the prompt asks for.
        scored: False where a response holds no score: a description.
        reasons: reasoning is written before the answer.
        opening: the text right before the score, None where no fixed text stands there. After it
            `mode=expected` reads the probabilities of scores.
        closing: the text that ends a response, None where none does: `stop=answer` stops there.
        score_ends: what may follow the score, of which one has to; empty where nothing has to.
        spaced: a blank may stand between `opening` and the score.
        levels: the words that stand for scores, with them; empty where scores are numbers.
        attributes: names of what else is read (`Answer.attributes`).
        words: those of them that are texts; the others are ratings on the scale of the score.
    """

    score_range: ScoreRange = ASKED_RANGE
    scored: ClassVar[bool] = True
    opening: str | None = None
    closing: str | None = None
    spaced: bool = False
    levels: Mapping[str, float] = {}
    attributes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    @property
    def ratings(self) -> tuple[str, ...]:
        """Names of the attributes that are numbers."""
        return tuple(name for name in self.attributes if name not in self.words)

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields of which `spans` may give the place."""
        if type(self).spans is AnswerForm.spans:
            return ()
        return (SCORE, *((REASONING,) if self.reasons else ()), *self.attributes)

    @property
    def reasons(self) -> bool:
        """Reasoning is written before the answer."""
        return False

    @property
    def score_ends(self) -> tuple[str, ...]:
        """What may follow the score."""
        return () if self.closing is None else (self.closing,)

    @property
    def beginning(self) -> str | None:
        """A whole response up to and including `opening`, where no reasoning is asked for."""
        return self.opening

    @property
    def first_tags(self) -> tuple[str, str] | None:
        """The opening and closing tag of the reasoning with which a compliant response begins."""
        return None

    def response_of(self, score: str) -> str | None:
        """A whole response that states a score, None where reasoning is asked for.

        Args:
            score: as it is written: a number in digits, or one of `levels`.
        """
        if self.reasons:
            return None
        begun = self.beginning or ""
        return begun + (" " if self.spaced and begun else "") + score + (self.closing or "")

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
