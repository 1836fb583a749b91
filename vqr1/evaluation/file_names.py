"""Names of files that are written of data sets and tables, whose own names may hold anything.

Not here: what is written (`report_writer.py`).
"""

from __future__ import annotations

from collections.abc import Iterable

from vqr1.tracking.store import slug


def file_names(names: Iterable[str]) -> dict[str, str]:
    """A file name without its ending for each name, no two alike on any file system.

    A name that can be a file's is kept; in others `-` takes the place of what cannot, and a number
    follows where that is the name of another.

    >>> file_names(["a/b", "a-b", "koniq", "a b"])
    {'a-b': 'a-b', 'koniq': 'koniq', 'a/b': 'a-b-2', 'a b': 'a-b-3'}
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in sorted(dict.fromkeys(names), key=lambda name: _plain(name) != name):
        plain = file = _plain(name)
        number = 1
        while file.casefold() in taken:
            number += 1
            file = f"{plain}-{number}"
        taken.add(file.casefold())
        found[name] = file
    return found


def _plain(name: str) -> str:
    return slug(name).replace("/", "-").replace(" ", "-")
