"""How rows of one or several images are named in predictions, reports and results."""

from __future__ import annotations

from collections.abc import Sequence

SEPARATOR = " + "
"""Between the names of a row's images."""


def row_name(images: Sequence[str]) -> str:
    """By what a row of one or several images is named.

    >>> row_name(["a.png"]), row_name(["a.png", "b.png"])
    ('a.png', 'a.png + b.png')
    """
    return SEPARATOR.join(images)
