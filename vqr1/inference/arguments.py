"""Arguments of a command line that takes files and overrides in any order.

Not here: which image files a path names (`files.py`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence


def files_after_mark(arguments: Sequence[str]) -> list[str]:
    """Arguments without the mark `--`, files after it that begin with a dash named as `./-a.png`.

    Where options and files are mixed, `argparse` takes what follows the mark for options too.
    """
    if "--" not in arguments:
        return list(arguments)
    place = list(arguments).index("--")
    after = arguments[place + 1 :]
    return [
        *arguments[:place],
        *(f".{os.sep}{name}" if name.startswith("-") and name != "-" else name for name in after),
    ]


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Paths and overrides: an override has `=` before any folder separator and names no file."""
    paths: list[str] = []
    overrides: list[str] = []
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        separators = {os.sep, os.altsep or os.sep}
        is_path = not equals or any(mark in key for mark in separators) or os.path.exists(argument)
        (paths if is_path else overrides).append(argument)
    return paths, overrides
