"""What scoring states of one image."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """What is known of one image afterwards.

    Attributes:
        path: the file as it was given, of several images the files in the prompt's order joined by
            ` + `; None for images and tensors.
        score: the score, normally within the scale that the prompt asks for; None where invalid,
            unreadable or not asked for.
        std: its standard deviation, where the mode has one.
        lost: modes `expected` and `levels`: probability of answers that are no number of the
            grammar, or no word, over which the expectation is not taken; None in other modes, or
            where no answer begins.
        valid: a score could be read; for descriptions, that there is a text.
        text: the model's answer (the first one of several); None where none was generated.
        error: why the image could not be read; None where it could.
        answers: answers that were sampled; None where the score is no mean of answers.
        valid_answers: those that hold a score: the ones that `score` and `std` are over.
        decoded_at: width and height, as `6000x5000`, that an image with too many pixels was decoded
            at; of several images of one row that of each (`whole + 6000x5000`); None where all
            were decoded whole.
    """

    path: str | None
    score: float | None = None
    std: float | None = None
    lost: float | None = None
    valid: bool = False
    text: str | None = None
    error: str | None = None
    answers: int | None = None
    valid_answers: int | None = None
    decoded_at: str | None = None
