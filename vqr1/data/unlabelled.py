"""Images of a set's folder that its labels do not name.

Not here: labels whose image is not there (`labelled_set.py`).
"""

from __future__ import annotations

import logging
import os
from itertools import chain
from pathlib import Path

from vqr1.counted import counted
from vqr1.data.images import is_image_name
from vqr1.data.labelled_set import LabelledSet

logger = logging.getLogger(__name__)

OWN = ("csv", "jsonl")
"""Formats of a user's own sets: in a published one images without a label are its references."""
_SHOWN = 3


def unlabelled_images(labelled: LabelledSet) -> list[str]:
    """Image files, by their endings, below the image folder that no label names."""
    # An image that cannot be used has a label too.
    bad = (problem.rpartition(": ")[0] for problem in labelled.bad_images)
    named = {*bad, *chain.from_iterable(labelled.table["images"])}
    found = []
    for folder, folders, names in os.walk(labelled.image_root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        place = Path(folder).relative_to(labelled.image_root).as_posix()
        prefix = "" if place == "." else f"{place}/"
        unnamed = sorted(name for name in names if f"{prefix}{name}" not in named)
        found += [f"{prefix}{name}" for name in unnamed if is_image_name(name)]
    return found


def mention_unlabelled(labelled: LabelledSet) -> None:
    """Log that images of a user's own set lie there without a label: nobody sees them otherwise."""
    found = unlabelled_images(labelled) if labelled.config.name in OWN else []
    if found:
        more = ", ..." if found[_SHOWN:] else ""
        logger.warning(
            "%s: %s in %s without a label, not used: %s%s", labelled.key,
            counted(len(found), "further image file"), labelled.image_root,
            ", ".join(found[:_SHOWN]), more,
        )  # fmt: skip
