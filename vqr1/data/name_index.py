"""Which image of a set a name means, as people write names: with or without ending or folder.

Not here: files on the disk (`image_index.py`).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath


class NameIndex:
    """Rows by what an image may be called, the exact name first.

    Args:
        names: of each row, the names that it goes by; "" is none.
    """

    def __init__(self, names: Iterable[tuple[str, ...]]) -> None:
        self._levels: tuple[dict[str, list[int]], ...] = ({}, {}, {}, {}, {})
        for row, known in enumerate(names):
            for name in filter(None, known):
                for level, form in zip(self._levels, _forms(name), strict=True):
                    rows = level.setdefault(form, [])
                    if row not in rows[-1:]:
                        rows.append(row)

    def find(self, name: str) -> list[int]:
        """Rows that a name fits: one, none, or several."""
        exact, folded = _forms(name)[:2]
        for level, form in zip(self._levels, (exact, *[folded] * 4), strict=True):
            if form in level:
                return level[form]
        return []


def _forms(name: str) -> tuple[str, ...]:
    """A name as it is, without letter case, also without its ending, its folder, and both."""
    folded = unicodedata.normalize("NFC", name).casefold()
    path = PurePosixPath(folded)
    return (name, folded, str(path.with_suffix("")), path.name, path.stem)
