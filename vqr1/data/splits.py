"""Division of a label table into training, validation and test rows, and subsets of these.

Draws are by SHA-256 of seed and name, so that a seed gives the same split on every machine, Python
and library version, in whatever order the rows come. Subsets are drawn in the same way: every n-th
row of a table that is ordered by reference, distortion and level may be one level only. Whatever
the rule, no reference (content) may lie in two splits; `check_no_leak` asserts that on every split
that is made, except those of the literature, whose shared references are reported in the log.

Not here: what the named splits of the literature are (`protocols.py`).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from vqr1.config import SplitConfig
from vqr1.data.contents import connected
from vqr1.data.labels._format import Split, refuse_pickle
from vqr1.data.labels._reading import text_lines
from vqr1.data.protocols import protocol_split
from vqr1.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

SPLITS: tuple[Split, ...] = ("train", "val", "test")
"""The splits in the order of `SplitConfig.fractions`."""

_SHOWN = 5


def hash_order(names: Sequence[str], seed: int) -> list[str]:
    """`names` without repeats, in an order that depends on seed and names only."""
    return sorted(set(names), key=lambda name: _digest(seed, name))


def draw_subset(names: Sequence[str], count: int, seed: int, split: str) -> list[int]:
    """Positions of the `count` names with the smallest SHA-256 of `seed:split:name`.

    The names that are drawn depend on nothing else, not even on the order that they come in, and
    a subset holds every smaller one.

    Args:
        names: distinct image names.
        count: how many; all where there are no more.
        seed: of the draw (`dataset.split.seed`).
        split: name of the split that the images are of.

    Returns:
        At most `count` positions in rising order, so that the rows stay in table order.
    """
    if count >= len(names):
        return list(range(len(names)))
    digests = [(_digest(seed, f"{split}:{name}"), name) for name in names]
    return sorted(sorted(range(len(names)), key=digests.__getitem__)[:count])


def split_counts(total: int, fractions: Sequence[float]) -> list[int]:
    """Whole numbers that sum to `total`, nearest to its fractions (largest remainders first).

    A split with a fraction above 0 gets at least one where `total` suffices.
    """
    shares = [total * fraction for fraction in fractions]
    counts = [int(share + 1e-9) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: (counts[i] - shares[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    for i, fraction in enumerate(fractions):
        if fraction > 0 and counts[i] == 0 and max(counts) > 1:
            counts[counts.index(max(counts))] -= 1
            counts[i] = 1
    return counts


def draw_splits(names: Sequence[str], fractions: Sequence[float], seed: int) -> dict[str, Split]:
    """Split of each distinct name, by hash order and fractions.

    Args:
        names: references or images; repeats count once.
        fractions: shares of train, val and test, summing to 1.
        seed: of the draw.
    """
    ordered = hash_order(names, seed)
    counts = split_counts(len(ordered), fractions)
    parts = [part for part, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
    return dict(zip(ordered, parts, strict=True))


def assign_splits(
    table: pd.DataFrame, split: SplitConfig, root: Path, key: str = "dataset"
) -> pd.Series:
    """The split of every row.

    Args:
        table: columns image, own_images, reference and split of `load_labels`.
        split: the rule.
        root: the set's folder, where `split.files` lie.
        key: dotted configuration key of the set.

    Returns:
        [rows] of train, val, test or None (in no split), indexed as the table.

    Raises:
        ConfigError: the rule does not fit the set.
        DataError: a split file names an unknown image, or one reference lies in two parts.
    """
    rules = {
        "reference": _by_reference,
        "image": _by_image,
        "official": _official,
        "protocol": _by_protocol,
        "files": _by_files,
        "none": _whole,
    }
    parts = pd.Series(rules[split.by](table, split, root, key), index=table.index, dtype=object)
    if split.by != "protocol":
        check_no_leak(table["reference"], parts, key)
    elif shared := _leaks(table["reference"], parts):
        logger.warning(
            "%s.split.protocol=%s: images of %d references lie in more than one split, as this "
            "protocol has it: a model is tested on content that it was trained on",
            key, split.protocol, len(shared),
        )  # fmt: skip
    return parts


def check_no_leak(references: pd.Series, parts: pd.Series, key: str = "dataset") -> None:
    """Assert that the images of each reference lie in one split.

    Raises:
        DataError: references that lie in more than one split (at most five are named).
    """
    if leaks := _leaks(references, parts):
        shown = ", ".join(leaks[:_SHOWN]) + (", ..." if len(leaks) > _SHOWN else "")
        raise DataError(
            f"{key}.split: images of {len(leaks)} references lie in more than one split ({shown}); "
            f"a model would be tested on content it was trained on. Use {key}.split.by=reference"
        )


def _leaks(references: pd.Series, parts: pd.Series) -> list[str]:
    """References whose images lie in more than one split, sorted."""
    known = references.notna() & parts.notna()
    in_parts = parts[known].groupby(references[known]).nunique()
    return sorted(in_parts[in_parts > 1].index)


def _digest(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def _check_fractions(split: SplitConfig, key: str) -> None:
    total = sum(split.fractions)
    if abs(total - 1) > 1e-6:
        raise ConfigError(
            [f"{key}.split.fractions={list(split.fractions)}: they sum to {total:g}, must be 1"]
        )


def _by_reference(
    table: pd.DataFrame, split: SplitConfig, root: Path, key: str
) -> list[Split | None]:
    _check_fractions(split, key)
    if table["reference"].isna().any():
        raise ConfigError(
            [
                f"{key}.split.by='reference': this set's labels name no references; use 'image', "
                "or 'official' where it has a split of its own"
            ]
        )
    drawn = draw_splits(table["reference"].tolist(), split.fractions, split.seed)
    return [drawn[reference] for reference in table["reference"]]


def _by_image(table: pd.DataFrame, split: SplitConfig, root: Path, key: str) -> list[Split | None]:
    _check_fractions(split, key)
    # Rows that share an image, such as pairs with one in common, stay together.
    contents = connected(table["own_images"].tolist())
    drawn = draw_splits(contents, split.fractions, split.seed)
    return [drawn[content] for content in contents]


def _official(table: pd.DataFrame, split: SplitConfig, root: Path, key: str) -> list[Split | None]:
    parts: list[Split | None] = [part if part in SPLITS else None for part in table["split"]]
    if not any(parts):
        raise ConfigError(
            [
                f"{key}.split.by='official': this set's labels hold no split; use 'reference', "
                "'image', 'files' or 'none'"
            ]
        )
    return _with_validation(parts, table, split)


def _by_protocol(
    table: pd.DataFrame, split: SplitConfig, root: Path, key: str
) -> list[Split | None]:
    return _with_validation(protocol_split(table, split.protocol, root, key), table, split)


def _with_validation(
    parts: list[Split | None], table: pd.DataFrame, split: SplitConfig
) -> list[Split | None]:
    """The splits, with validation images drawn out of training where there are none."""
    if "val" in parts or "train" not in parts:
        return parts
    # Training content that validates: whole references where they are known, else single images.
    content = [
        image if reference is None else reference
        for image, reference in zip(
            connected(table["own_images"].tolist()), table["reference"], strict=True
        )
    ]
    training = [name for name, part in zip(content, parts, strict=True) if part == "train"]
    share = split.fractions[1]
    drawn = draw_splits(training, (1 - share, share, 0.0), split.seed)
    return [
        drawn[name] if part == "train" else part for name, part in zip(content, parts, strict=True)
    ]


def _by_files(table: pd.DataFrame, split: SplitConfig, root: Path, key: str) -> list[Split | None]:
    if not split.files:
        raise ConfigError([f"{key}.split.files=None: split.by='files' needs at least one list"])
    rows_of = _names_to_rows(table)
    parts: list[Split | None] = [None] * len(table)
    for part, file in split.files.items():
        path = root / file
        if not path.resolve().is_relative_to(root.resolve()):
            raise ConfigError([f"{key}.split.files.{part}={file!r}: leaves {key}.root"])
        if not path.is_file():
            raise ConfigError([f"{key}.split.files.{part}={file!r}: no such file in {root}"])
        refuse_pickle(path, f"{key}.split.files.{part}")
        for where, line in text_lines(path):
            for row in _listed_rows(line, rows_of, where):
                if parts[row] not in (None, part):
                    raise DataError(
                        f"{where}: {table['image'].iloc[row]!r} is in the {parts[row]} list too"
                    )
                parts[row] = part
    return parts


def _listed_rows(line: str, rows_of: Mapping[str, np.ndarray], where: str) -> np.ndarray:
    """Rows of the image or reference that a line names.

    The whole line is tried first, because image names may hold blanks.
    """
    for name in (line.strip(), line.split()[0]):
        rows = rows_of.get(name.lower())
        if rows is not None:
            return rows
    raise DataError(
        f"{where}: {line.strip()[:80]!r} is neither an image nor a reference of the set"
    )


def _names_to_rows(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Rows of every image name and reference name, and of references without their extension."""
    names: dict[str, np.ndarray] = {}
    for reference, group in table.groupby("reference").indices.items():
        rows = np.asarray(group)
        names[str(reference).lower()] = rows
        names.setdefault(Path(str(reference)).stem.lower(), rows)
    # A name that a reference bears too (SRIQA-Bench lists originals) stands for all its images.
    for row, image in enumerate(table["image"]):
        names.setdefault(image.lower(), np.array([row]))
        names.setdefault(Path(image).name.lower(), np.array([row]))
    for row, own in enumerate(table["own_images"]):
        for image in own if len(own) > 1 else ():
            known = names.get(image.lower(), np.empty(0, dtype=np.int64))
            names[image.lower()] = np.append(known, row)
    return names


def _whole(table: pd.DataFrame, split: SplitConfig, root: Path, key: str) -> list[Split | None]:
    return ["test"] * len(table)
