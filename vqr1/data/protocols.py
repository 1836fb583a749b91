"""Named splits of the literature: `dataset.split.by=protocol dataset.split.protocol=deqa`.

- `visualquality_r1` (arXiv 2505.14460): KADID-10k's 49/16/16 references of the release; the sets
  that it evaluates on are test sets as a whole. Its LIVE Challenge list holds the raters' seven
  training images too, which the set proper here does not.
- `deqa` (arXiv 2501.11561; Q-Insight, MR-IQA, RALI and Q-Hawkeye train and test on it): the lists
  of KonIQ-10k, SPAQ, KADID-10k and PIPAL are read from DeQA-Score's own files, which lie beside the
  set; CSIQ, LIVE Challenge, AGIQA-3K and TID2013 are test sets as a whole.
- `ratio802_seed123_01` to `_10`, and all others of this form: pyiqa's random splits, from the
  column `ratio802_seed123_split_01` of its label file. (They cannot be drawn again: some were drawn
  from unordered collections of names.) Where such a column holds no test images, its validation
  images, a fifth of the set, are the test split.
- Any other split column of a label file, by the column's name, such as PIQ23's `device` and
  `scene`.

Not here: random splits and lists of one's own (`splits.py`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pandas as pd

from vqr1.data.labels._deqa import listed_images
from vqr1.data.labels._format import Split
from vqr1.errors import ConfigError, DataError

Rule = Callable[[pd.DataFrame, Path, str], list[Split | None]]
"""From a set's labels, its folder and its configuration key to the split of every row."""

_PYIQA = re.compile(r"(ratio\d+_seed\d+)_(\d+)")
_PYIQA_COLUMN = re.compile(r"(ratio\d+_seed\d+)_split_(\d+)")


def protocol_split(
    table: pd.DataFrame, protocol: str | None, root: Path, key: str
) -> list[Split | None]:
    """The split of every row in a protocol; None for rows that are in none of its splits.

    Args:
        table: of `load_labels`; `attrs["format"]` names the set's format.
        protocol: its name.
        root: the set's folder, where lists of the protocol may lie.
        key: dotted configuration key of the set.

    Raises:
        ConfigError: the set has no such protocol, or its lists are not there.
        DataError: lists that are not those of the protocol.
    """
    name = str(table.attrs.get("format", ""))
    declared = PROTOCOLS.get(name, {})
    rule = declared.get(protocol or "")
    if rule is not None:
        return rule(table, root, key)
    columns = {_name_of(column): column for row in table["splits"] for column in row}
    column = columns.get(_name_of(protocol or ""))
    if column is not None:
        parts: list[Split | None] = [row.get(column) for row in table["splits"]]
        no_test = _PYIQA_COLUMN.fullmatch(column) and "test" not in parts
        return ["test" if part == "val" and no_test else part for part in parts]
    known = ", ".join([*declared, *columns]) or "none"
    asked = _PYIQA.fullmatch(protocol or "")
    raise ConfigError(
        [
            f"{key}.split.protocol={protocol!r}: {name or 'this set'} has no such split; it has "
            f"{known}"
            + (
                f" (column {asked[1]}_split_{asked[2]} of pyiqa's label file, meta_info_...csv, "
                "would be it)"
                if asked
                else ""
            )
        ]
    )


def _name_of(column: str) -> str:
    """The protocol's name of a split column: `ratio802_seed123_split_01` is `..._01`."""
    return _PYIQA_COLUMN.sub(r"\1_\2", column)


def _whole(table: pd.DataFrame, root: Path, key: str) -> list[Split | None]:
    return ["test"] * len(table)


def _own_column(table: pd.DataFrame, root: Path, key: str) -> list[Split | None]:
    return list(table["split"])


@dataclass(frozen=True)
class DeqaLists:
    """Training and test lists of DeQA-Score's release, read from its files (`labels/_deqa.py`).

    Attributes:
        folder: the set's folder in the release.
        splits: those that it has lists of.
        counts: images of each split as published, where that is known.
    """

    folder: str
    splits: tuple[Split, ...] = ("train", "test")
    counts: Mapping[Split, int] = field(default_factory=dict)

    def __call__(self, table: pd.DataFrame, root: Path, key: str) -> list[Split | None]:
        """The split of every row; see `protocol_split`."""
        rows_of = {PurePosixPath(name).name.lower(): i for i, name in enumerate(table["image"])}
        parts: list[Split | None] = [None] * len(table)
        for listed in listed_images(root, self.folder):
            name = PurePosixPath(listed.image.replace("\\", "/")).name
            row = rows_of.get(name.lower())
            if row is None:
                raise DataError(f"{listed.where}: {name!r} is no image of the set")
            if parts[row] not in (None, listed.split):
                raise DataError(f"{listed.where}: {name!r} is in the {parts[row]} list too")
            parts[row] = listed.split
        self._check(parts, root, key)
        return parts

    def _check(self, parts: Sequence[Split | None], root: Path, key: str) -> None:
        protocol, found = f"{key}.split.protocol='deqa'", Counter(parts)
        if not all(found[split] for split in self.splits):
            lists = " and ".join(f"{split}_*.json" for split in self.splits)
            raise ConfigError(
                [
                    f"{protocol}: needs {lists}, or split.json, of Data-DeQA-Score's "
                    f"{self.folder}/metas in {root}, in {self.folder}/metas or metas below it"
                ]
            )
        wrong = [
            f"{found[split]} {split} images, published are {count}"
            for split, count in self.counts.items()
            if found[split] != count
        ]
        if wrong:
            raise DataError(f"{protocol}: {'; '.join(wrong)}; another version?")


_KONIQ = DeqaLists("KONIQ", counts={"train": 7046, "test": 2010})

_WHOLE_RELEASE: dict[str, Rule] = {"visualquality_r1": _whole}

PROTOCOLS: Mapping[str, Mapping[str, Rule]] = {
    "kadid": {
        "visualquality_r1": _own_column,
        "deqa": DeqaLists("KADID10K"),
    },
    "koniq": {**_WHOLE_RELEASE, "deqa": _KONIQ},
    "koniq_scores": {**_WHOLE_RELEASE, "deqa": _KONIQ},
    "spaq": {**_WHOLE_RELEASE, "deqa": DeqaLists("SPAQ")},
    "pipal": {"deqa": DeqaLists("PIPAL", ("test",), {"test": 4640})},
    "livec": {**_WHOLE_RELEASE, "deqa": _whole},
    "agiqa3k": {**_WHOLE_RELEASE, "deqa": _whole},
    "csiq": {"deqa": _whole},
    "tid": {"deqa": _whole},
    "bid": _WHOLE_RELEASE,
    "deblur": _WHOLE_RELEASE,
    "dehaze": _WHOLE_RELEASE,
    "sriqa": _WHOLE_RELEASE,
}
"""By format, the protocols that its label file has no column for."""
