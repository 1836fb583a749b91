"""Answers whose beginning the chat template has written already.

Templates of reasoning models write `<think>` into the prompt, and some close it again. The model's
response then lacks what the form asks for, although prompt and response together have it. Here the
response is read with that beginning put in front.

Not here: the template (`vqr1.policy.prompts`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vqr1.iqa.answers.base import Answer, AnswerForm, Span


def already_written(form: AnswerForm, prompt: str) -> str:
    """What of a response the prompt's end holds: `<think>`, or an empty pair; else nothing.

    Args:
        form: states with which tags a response begins.
        prompt: the whole prompt as the template writes it, up to the assistant's turn.
    """
    if form.first_tags is None:
        return ""
    opened, closed = form.first_tags
    head = prompt.rstrip()
    if head.endswith(closed):
        head = head[: -len(closed)].rstrip()
    return prompt[len(head) - len(opened) :] if head.endswith(opened) else ""


def form_after(form: AnswerForm, prompt: str) -> AnswerForm:
    """The form that reads a response to this prompt: `form` itself, or with a beginning."""
    beginning = already_written(form, prompt)
    return ContinuedAnswer(form, beginning) if beginning else form


@dataclass(frozen=True)
class ContinuedAnswer(AnswerForm):
    """A form whose beginning is not part of the response.

    Attributes:
        form: of beginning and response together.
        written: the beginning.
    """

    form: AnswerForm
    written: str

    def __post_init__(self) -> None:
        # Attributes of the base class, which the form's own replace.
        for name in (
            "score_range", "scored", "opening", "closing", "spaced", "levels", "attributes", "words"
        ):  # fmt: skip
            object.__setattr__(self, name, getattr(self.form, name))

    @property
    def reasons(self) -> bool:
        """As the form."""
        return self.form.reasons

    @property
    def fields(self) -> tuple[str, ...]:
        """As the form."""
        return self.form.fields

    @property
    def score_ends(self) -> tuple[str, ...]:
        """As the form."""
        return self.form.score_ends

    @property
    def beginning(self) -> str | None:
        """As the form."""
        return self.form.beginning

    def parse(self, text: str) -> Answer:
        """See `AnswerForm.parse`."""
        return self.form.parse(self.written + text)

    def spans(self, text: str) -> Mapping[str, Span]:
        """See `AnswerForm.spans`; characters of the beginning belong to no field."""
        by = len(self.written)
        spans = self.form.spans(self.written + text)
        moved = {name: (max(0, first - by), end - by) for name, (first, end) in spans.items()}
        return {name: span for name, span in moved.items() if span[1] > 0}
