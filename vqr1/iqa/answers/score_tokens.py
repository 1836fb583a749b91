"""A score from 0 to 100 as one of 101 words of two letters (UniPercept, arXiv 2512.21675).

    0 to 25: aa to az    26 to 50: ca to cy    51 to 75: da to dy    76 to 100: ea to ey

Each is one token of its model's tokenizer, so that `mode=expected` is the softmax over the 101
logits times their numbers. Not here: that expectation (`vqr1.policy.expected_score`).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from vqr1.iqa.answers.base import STRICT
from vqr1.iqa.answers.levels import LevelAnswer, Word, several_words

HIGHEST = 100
_BEGINNINGS = ((76, "e"), (51, "d"), (26, "c"), (0, "a"))


def score_token(number: int) -> str:
    """The word of a whole score.

    Raises:
        ValueError: it is not from 0 to 100.

    >>> score_token(0), score_token(50), score_token(100)
    ('aa', 'cy', 'ey')
    """
    if not 0 <= number <= HIGHEST:
        raise ValueError(f"{number}: must be from 0 to {HIGHEST}")
    first, letter = next(entry for entry in _BEGINNINGS if entry[0] <= number)
    return letter + chr(ord("a") + number - first)


def _words() -> dict[str, float]:
    return {score_token(number): float(number) for number in range(HIGHEST + 1)}


@dataclass(config=STRICT, kw_only=True, frozen=True)
class ScoreTokenAnswer(LevelAnswer):
    """One word out of those of `score_token`."""

    levels: Annotated[dict[Word, float], AfterValidator(several_words)] = Field(
        default_factory=_words
    )
    """The words, with the scores that they stand for."""
