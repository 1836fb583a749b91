"""Which of several published scores of an image is the MOS (`dataset.score`).

Parsers give all of them (`LabelRow.scores`). The chosen one becomes `mos` and `std`, its published
range that of the format, and each is a further column under its name, turned so that higher is
better: what rewards and evaluations of several attributes compare answers with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vqr1.data.labels._format import LabelFormat, LabelRow
from vqr1.errors import ConfigError, DataError


def chosen_score(
    rows: Sequence[LabelRow], declared: LabelFormat, score: str | None, key: str
) -> tuple[list[LabelRow], LabelFormat]:
    """The rows with the chosen score as MOS, and the format with its range.

    Args:
        rows: the parser's rows.
        declared: the format that they came from.
        score: name of the score; None takes the first that is declared.
        key: dotted configuration key of the set, for error messages.

    Raises:
        ConfigError: the set has no such score.
        DataError: a row lacks the score.
    """
    if score is None:
        return [_with_columns(row, declared) for row in rows], declared
    if score not in declared.scores:
        raise ConfigError([f"{key}.score={score!r}: {_known(declared)}"])
    for row in rows:
        if score not in row.scores:
            raise DataError(f"{row.where}: no score {score!r} of {row.image}, as {key}.score asks")
    chosen = [
        replace(_with_columns(row, declared), mos=row.scores[score].mos, std=row.scores[score].std)
        for row in rows
    ]
    return chosen, replace(declared, published_range=declared.scores[score])


def _known(declared: LabelFormat) -> str:
    if declared.scores:
        return f"{declared.title} has {', '.join(declared.scores)}"
    if declared.published_range is None:
        return (
            f"of a set of your own, columns.mos names the score; remove the key ({declared.name})"
        )
    return f"{declared.title} has one score; remove the key"


def _with_columns(row: LabelRow, declared: LabelFormat) -> LabelRow:
    if not row.scores:
        return row
    columns = dict(row.further)
    for name, (low, high) in declared.scores.items():
        if name in row.scores:
            mos = row.scores[name].mos
            columns[name] = mos if declared.published_direction == "higher" else low + high - mos
    return replace(row, further=columns)
