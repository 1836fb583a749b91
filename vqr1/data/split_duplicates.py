"""Near-identical images in different splits of a run's sets: excluded, or the run refused.

What it does: of two near-identical images (`near_duplicates.py`) in different splits, of one set or
of two sets of a mixture, the one in the earlier split of train, val, test leaves its split, so that
test images stay those of the literature. `dataset.split.near_duplicates` of its set decides:
`exclude`, or `refuse`. A set with another value is compared with, and keeps its images.

Not here: images that an earlier training has seen (`vqr1.evaluation.trained_on`).
"""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from vqr1.counted import counted_are
from vqr1.data.labelled_set import LabelledSet
from vqr1.data.labels import Split
from vqr1.data.near_duplicates import image_hashes, near_pairs
from vqr1.data.splits import SPLITS
from vqr1.errors import DataError

logger = logging.getLogger(__name__)

ACTING = ("refuse", "exclude")
"""Values of `split.near_duplicates` that change what a run is of."""

_SHOWN = 5

_Place = tuple[str, int]
"""Name of a set, row of its table."""


def without_near_duplicates(
    sets: Mapping[str, LabelledSet], *, shown: bool = False
) -> dict[str, LabelledSet]:
    """The sets without training and validation images that are near-identical to later splits'.

    Images are hashed only where a set has `split.near_duplicates` of `ACTING`.

    Args:
        sets: by name.
        shown: with a progress bar.

    Raises:
        DataError: a set with `refuse` has such images; at most five are named.
    """
    if not any(s.config.split.near_duplicates in ACTING for s in sets.values()):
        return dict(sets)
    twins: dict[_Place, _Place] = {}
    left = dict(sets)
    while new := _new_twins(left, twins, shown=shown):
        twins |= new
        # With `max_images` others take their place, which nobody has compared yet.
        left = {
            name: without_rows(s, [row for part, row in twins if part == name])
            if s.config.split.near_duplicates == "exclude"
            else s
            for name, s in sets.items()
        }
    return {name: _without(sets, name, twins) for name in sets}


def _new_twins(
    sets: Mapping[str, LabelledSet], known: Container[_Place], *, shown: bool
) -> dict[_Place, _Place]:
    """Images with a near-identical one in a later split, and that one; without those known."""
    places: dict[Split, list[tuple[str, int]]] = {split: [] for split in SPLITS}
    hashes: dict[Split, list[str]] = {}
    for split, listed in places.items():
        files: list[Path] = []
        for name, labelled in sets.items():
            for row in labelled.rows(split).index:
                own = labelled.own_files([row]).values()
                files += own
                listed += [(name, int(row))] * len(own)
        hashes[split] = image_hashes(files, shown=shown)
    twins: dict[_Place, _Place] = {}
    for early, late in combinations(SPLITS, 2):
        for i, j, _ in near_pairs(hashes[early], hashes[late]).tolist():
            if places[early][i] not in known:
                twins.setdefault(places[early][i], places[late][j])
    return twins


def without_rows(labelled: LabelledSet, rows: list[int]) -> LabelledSet:
    """The set with some rows in no split; with `max_images`, others take their place."""
    table = labelled.table.copy()
    table.loc[rows, "split"] = None
    return replace(labelled, table=table)


def act_on(labelled: LabelledSet, rows: list[int], found: str) -> LabelledSet:
    """Refuse a set, or exclude rows from its splits, as its configuration asks.

    Args:
        labelled: the set.
        rows: numbers of the images in its table.
        found: what was found of them; `LabelledSet.excluded` holds it then.

    Raises:
        DataError: the set's `split.near_duplicates` is `refuse`.
    """
    key, action = f"{labelled.key}.split.near_duplicates", labelled.config.split.near_duplicates
    if not rows or action not in ACTING:
        return labelled
    if action == "refuse":
        raise DataError(f"{key}=refuse: {found}. {key}=exclude leaves these images out")
    logger.warning("%s=exclude: %s; excluded", key, found)
    excluded = (*labelled.excluded, f"{found}; excluded")
    return replace(without_rows(labelled, rows), excluded=excluded)


def _without(
    sets: Mapping[str, LabelledSet], name: str, twins: Mapping[_Place, _Place]
) -> LabelledSet:
    labelled = sets[name]
    rows = [row for part, row in twins if part == name]
    named = []
    for row in rows[:_SHOWN]:
        other, twin = twins[name, row]
        there = sets[other].table.iloc[twin]
        here = labelled.table.iloc[row]
        of_set = f" of {other}" if other != name else ""
        named.append(f"{here['image']} ({here['split']}) and {there['image']}{of_set} "
                     f"({there['split']})")  # fmt: skip
    more = f"; and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    found = (
        f"{name}: {counted_are(len(rows), 'image')} near-identical to images of a later split: "
        f"{'; '.join(named)}{more}"
    )
    return act_on(labelled, rows, found)


def pairs_between_contents(labelled: LabelledSet, rows: np.ndarray) -> list[str]:
    """Near-identical pairs among some rows, those of one reference excepted, as text.

    Args:
        labelled: the set.
        rows: [n] numbers in its table.
    """
    files = {name: (path, int(row)) for row in rows for name, path in _own(labelled, row)}
    hashes = image_hashes([path for path, _ in files.values()], shown=True)
    images, places = list(files), [row for _, row in files.values()]
    references, splits = (
        labelled.table[column].iloc[places].tolist() for column in ("reference", "split")
    )
    lines = []
    for i, j, bits in near_pairs(hashes).tolist():
        if references[i] is not None and references[i] == references[j]:
            continue  # versions of one photograph, as such a set has them
        if places[i] == places[j]:
            continue  # images to compare, shown together
        apart = splits[i] != splits[j] and None not in (splits[i], splits[j])
        across = f", in {splits[i]} and {splits[j]}" if apart else ""
        lines.append((not across, f"{images[i]} and {images[j]} ({bits} of 256 bits{across})"))
    return [line for _, line in sorted(lines)]


def _own(labelled: LabelledSet, row: int) -> list[tuple[str, Path]]:
    return list(labelled.own_files([row]).items())
