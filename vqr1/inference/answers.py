"""From a reply to the scores in it, by the one rule that scoring, evaluation and validation share.

An answer that cannot be parsed has no score. Whoever reads the scores decides what several of them
are together: `vqr1.inference.scorer`, `vqr1.evaluation.predictions`.

Shape legend: S answers of one image.
"""

from __future__ import annotations

from dataclasses import dataclass

from vqr1.inference.request import Reply, Request


@dataclass(frozen=True)
class Answers:
    """What the reply to one image states.

    Attributes:
        texts: S texts; empty where none was generated, or where there was an error.
        scores: S scores, None where an answer is invalid. With `expected` the one expected score.
        format_compliant: S times, whether the whole answer has the required format; True where the
            form was given and not generated.
    """

    texts: tuple[str, ...]
    scores: tuple[float | None, ...]
    format_compliant: tuple[bool, ...]


def read_reply(reply: Reply, request: Request) -> Answers:
    """The scores of a reply.

    Args:
        reply: what the model answered; with an error all S answers are invalid.
        request: what it was asked.
    """
    if reply.error is not None:
        return Answers((), (None,) * request.samples, (False,) * request.samples)
    parsed = [request.answer.parse(text) for text in reply.texts]
    format_compliant = tuple(answer.format_compliant for answer in parsed)
    if request.expected:
        return Answers(reply.texts, (reply.score,), format_compliant or (True,))
    return Answers(reply.texts, tuple(answer.score for answer in parsed), format_compliant)
