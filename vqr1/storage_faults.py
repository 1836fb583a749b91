"""A disk that takes nothing: how its errors are known, and the one line that each gets.

Not here: other faults of a machine under a training (`vqr1.training.faults`), and standard output
(`vqr1.standard_streams`).
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

from vqr1.errors import first_of_causes

STORAGE_ERRORS = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.EACCES, errno.EPERM,
}  # fmt: skip
"""Numbers of the system errors that mean: this disk takes nothing."""
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Those of a disk, or of a quota, that has no room."""


def storage_line(error: BaseException, place: str | Path = "the disk") -> str | None:
    """The one line for an error of a disk; None for everything else.

    Args:
        error: what was raised.
        place: named where the error names no file.
    """
    return first_of_causes(error, lambda one: disk_line(one, place))


def disk_line(error: Exception, place: str | Path) -> str | None:
    """`storage_line` of an error alone, whatever it arose from."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        return _copied_line(error.args[0])
    if isinstance(error, OSError) and error.errno in STORAGE_ERRORS:
        # Of two files the second is the one that is written.
        return _line(error.filename2 or error.filename or place, error.errno)
    text = " ".join(str(error).split())
    # By name: whoever writes no weights does not import safetensors.
    if type(error).__name__ == "SafetensorError" and "os error" in text:
        return f"{place}: {text}; make room there"
    return None


def _copied_line(failed: list[tuple[str, str, str]]) -> str | None:
    """The line for a folder that could not be copied, by the first of its files that could not."""
    for _, target, why in failed:
        number = re.match(r"\[Errno (\d+)\]", why)
        if number is not None and int(number[1]) in STORAGE_ERRORS:
            return _line(target, int(number[1]))
    return None


def _line(place: object, number: int) -> str:
    if number in FULL:
        fix = "make room there"
    elif os.path.exists(str(place)) and not os.access(str(place), os.R_OK):
        fix = "make this place readable"
    else:
        fix = "make this place writable"
    return f"{place}: {os.strerror(number)}; {fix}"
