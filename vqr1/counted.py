"""Numbers with what they count, as messages print them."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """A number and its noun, which is in the singular after 1.

    >>> counted(1, "image"), counted(2, "image"), counted(0, "image")
    ('1 image', '2 images', '0 images')
    """
    return f"{number} {noun}{'s' * (number != 1)}"


def counted_are(number: int, noun: str, *, past: bool = False) -> str:
    """`counted` with the verb that follows it.

    >>> counted_are(1, "image"), counted_are(2, "image", past=True)
    ('1 image is', '2 images were')
    """
    verbs = ("was", "were") if past else ("is", "are")
    return f"{counted(number, noun)} {verbs[number != 1]}"
