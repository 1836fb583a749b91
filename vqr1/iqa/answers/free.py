"""Any text, without a score."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from vqr1.iqa.answers.base import STRICT, Answer, AnswerForm


@dataclass(config=STRICT, kw_only=True, frozen=True)
class FreeText(AnswerForm):
    """Any text, without a score: a description."""

    scored: ClassVar[bool] = False

    def parse(self, text: str) -> Answer:
        """See `AnswerForm.parse`: no score, and always format-compliant."""
        return Answer(score=None, reasoning=None, format_compliant=True)
