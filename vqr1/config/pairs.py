"""Keys of a file of preferences between pairs of images (`dataset.pairs`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic.dataclasses import dataclass

from vqr1.config.affects import Affects
from vqr1.config.types import STRICT_KEYS, Column, NonNegativeFloat

Target = Literal["mos", "pairs"]
"""What an evaluation measures."""
TrainingTarget = Literal["mos", "pairs", "self_vote"]
"""What a training learns from."""

Codes = Literal["words", "zero_one", "one_two", "sign", "probability"]


@dataclass(config=STRICT_KEYS, kw_only=True)
class PairsConfig:
    """A table of pairs of images, one statement a row; a pair may come again, as further votes."""

    file: Annotated[str | None, Affects.LOCATION] = None
    """CSV, TSV, XLSX or JSONL file relative to the set's `root`; null: the set has no pairs."""
    first: Column = "first"
    """One image: its name in the labels or its file, with or without the file's ending, or what
    `name_pattern` makes a name of."""
    second: Column = "second"
    """The other image."""
    preference: Column = "preference"
    """Which of the two is better; read as `codes` states."""
    codes: Codes | None = None
    """What `preference` holds: `words` (left, a, first; right, b, second; equal, same, tie, tied,
    draw, both, neither), `zero_one` (0 the first, 1 the second), `one_two` (1 the first, 2 the
    second, 0 equal), `sign` (1 the first, -1 the second, 0 equal), `probability` (in [0, 1], that
    the first is better). null: words, 1 and 2, and fractions are recognised."""
    words: dict[Literal["first", "second", "equal"], tuple[str, ...]] | None = None
    """Words or codes of the file's own, in place of `codes`; letter case does not count."""
    votes: tuple[Column, Column] | None = None
    """Two columns with the numbers of votes for the first and the second, in place of
    `preference`."""
    equal_votes: Column | None = None
    """With `votes`: column with the number of votes for neither."""
    name_pattern: str | None = None
    """As `columns.name_pattern`; null: that of `columns`. `{}` leaves names as they are."""
    tie_threshold: NonNegativeFloat = 0.0
    """Largest difference of two predicted scores that predicts "equal", on their own scale."""
    human_ties: Literal["half", "exclude"] = "half"
    """Pairs without a majority: `half` counts them half right (right where "equal" is predicted),
    `exclude` takes them out of the accuracy."""
    fit: Literal["thurstone", "bradley_terry"] = "thurstone"
    """Model of the scores that are fitted where something needs a number for each image."""
    header: bool | None = None
    """Whether the table has a header line; null: yes where a column is given by name, else no."""
    separator: Literal[",", ";", "tab"] | None = None
    """Mark between the columns of a text file; null: the only one of them in the first line."""
    decimal: Literal["point", "comma"] | None = None
    """Decimal mark; null: a comma where the numbers leave no doubt, else a point."""
    sheet: str | None = None
    """Sheet of an .xlsx file; null: the only one that is not empty."""
