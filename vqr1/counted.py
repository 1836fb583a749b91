"""Numbers with what they count, as messages print them."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """A number and its noun, which is in the singular after 1.

    >>> counted(1, "image"), counted(2, "image"), counted(0, "image")
    ('1 image', '2 images', '0 images')
    """
    return f"{number} {noun}{'s' * (number != 1)}"
