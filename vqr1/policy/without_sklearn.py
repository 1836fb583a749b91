"""Transformers without scikit-learn, which was a seventh of what `score.py` needed to start.

Not here: the rest of what transformers imports, none of which a caller can switch off.
"""

from __future__ import annotations

import sys

_NAME = "sklearn"


def hide_sklearn_from_transformers() -> None:
    """Have transformers find no scikit-learn in this process; everything else finds it as before.

    Transformers imports all of it (with scipy and pandas) for one function of assisted generation,
    which nothing here uses, wherever its check `is_sklearn_available` finds it, and remembers what
    the check found. For commands: in another program, as beside `vqr1.create_metric`, the check is
    the caller's. Where scikit-learn is imported already nothing changes.
    """
    if _NAME in sys.modules:
        return
    sys.modules[_NAME] = None  # type: ignore[assignment]  # Python's mark: not to be imported
    try:
        from transformers.utils import is_sklearn_available

        is_sklearn_available()
    finally:
        del sys.modules[_NAME]
