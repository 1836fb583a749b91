"""Which files `score.py` wrote: known by the first line, so that no other file is replaced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from vqr1.inference.writers import (
    EARLIER_FIELDS,
    EARLIER_RANKING_FIELDS,
    FIELDS,
    PAIR_FIELDS,
    RANKING_HEAD,
    SCORES_HEAD,
    csv_row,
    ranking_fields,
)

Written = Literal["scores", "ranking", "pairs"]

_LONGEST = 10_000_000
"""Bytes of a first line; one of JSON holds a whole answer."""


def written_kind(path: Path) -> Written | None:
    """What `score.py` wrote into a file; None where it did not write it.

    A table of descriptions has no head, and is not known.
    """
    try:
        with path.open("rb") as file:
            line = file.readline(_LONGEST).decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    heads: dict[str, Written] = {
        csv_row(FIELDS): "scores",
        **dict.fromkeys(map(csv_row, EARLIER_FIELDS), "scores"),
        SCORES_HEAD: "scores",
        csv_row(ranking_fields()): "ranking",
        csv_row(EARLIER_RANKING_FIELDS): "ranking",
        RANKING_HEAD: "ranking",
        csv_row(PAIR_FIELDS): "pairs",
    }
    return heads.get(line) or _kind_of_object(line)


def _kind_of_object(line: str) -> Written | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    kinds: dict[tuple[str, ...], Written] = {
        FIELDS: "scores",
        **dict.fromkeys(EARLIER_FIELDS, "scores"),
        ranking_fields(): "ranking",
        EARLIER_RANKING_FIELDS: "ranking",
    }
    return kinds.get(tuple(row))
