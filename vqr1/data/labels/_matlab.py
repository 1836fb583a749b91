"""Prints variables of a MATLAB file as JSON, in a process of its own.

SciPy's reader is compiled code that a damaged file can crash, and a crash takes its whole process
with it. `vqr1.data.labels._reading` runs this file as a program for that reason; nothing else of
the package is loaded.
"""

from __future__ import annotations

import json
import struct
import sys
import zlib

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

_DAMAGED = (
    MatReadError, NotImplementedError, ValueError, TypeError, OSError, KeyError, IndexError,
    EOFError, OverflowError, MemoryError, zlib.error, struct.error,
)  # fmt: skip


def _plain(array: np.ndarray) -> list[float | str]:
    """Numbers as they are; of each cell the first text in it."""
    flat = np.asarray(array).ravel()
    if flat.dtype.kind in "biuf":
        return [float(value) for value in flat]
    return [str(np.asarray(cell).ravel()[0]) for cell in flat]


def main(path: str, names: list[str]) -> None:
    """Print `{"arrays": [...]}`, or `{"problem": text}`."""
    found: dict[str, object]
    try:
        content = loadmat(path)
        missing = [name for name in names if name not in content]
        if missing:
            present = ", ".join(key for key in content if not key.startswith("__"))
            found = {"problem": f"no variable {', '.join(missing)}; the file has {present}"}
        else:
            found = {"arrays": [_plain(content[name]) for name in names]}
    except _DAMAGED as error:
        found = {"problem": f"not readable as a MATLAB file ({error})"}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
