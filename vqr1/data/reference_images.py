"""The undistorted image of each row shown before it: `dataset.full_reference`.

The label files or the images' names state which reference it is, the format where its file lies.
Reference images have no score and belong to no split of their own: rows of one reference stay
together as the set's `split` has it, and a file that many rows share is read once a batch.

Not here: rows that list their images themselves (csv and jsonl).
"""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from vqr1.data.image_index import ImageIndex
from vqr1.data.labels import LabelFormat
from vqr1.errors import ConfigError, DataError

_SHOWN = 5


def with_references(
    table: pd.DataFrame, declared: LabelFormat, root: Path, image_root: Path, key: str
) -> pd.DataFrame:
    """The table with two images a row: the reference, and the row's own.

    Args:
        table: of `labelled_set`, its images found.
        declared: the format that it came from.
        root: the set's folder.
        image_root: folder that image paths are relative to; those of references may leave it.
        key: dotted configuration key of the set.

    Raises:
        ConfigError: the set has no references, or its rows list several images already.
        DataError: a row names no reference, or a reference's file is not there.
    """
    asked = f"{key}.full_reference=true"
    if not declared.reference_folders:
        raise ConfigError(
            [
                f"{asked}: {declared.title} comes without reference images; remove the key, or "
                f"list references and images in a table of your own (dataset=csv, columns.image)"
            ]
        )
    listed = len(table["images"].tolist()[0])
    if listed > 1:
        raise ConfigError([f"{asked}: its rows list {listed} images already; remove the key"])
    unnamed = table["image"][table["reference"].isna()]
    if len(unnamed):
        raise DataError(
            f"{asked}: {len(unnamed)} of {len(table)} rows name no reference, such as that of "
            f"{unnamed.iat[0]}; fill them in (csv: columns.reference names the column)"
        )
    found = _files(
        table["reference"].unique().tolist(), _folder(declared, root, image_root, key), asked
    )
    # Through a link, `..` leads to the parent of the folder that it links to.
    base = image_root.resolve()
    paths = {
        name: Path(os.path.relpath(file.parent.resolve() / file.name, base)).as_posix()
        for name, file in found
    }
    pairs = [
        (paths[name], *images)
        for name, images in zip(table["reference"], table["images"], strict=True)
    ]
    return table.assign(images=pd.Series(pairs, index=table.index, dtype=object))


def _folder(declared: LabelFormat, root: Path, image_root: Path, key: str) -> Path:
    if set(declared.reference_folders) <= set(declared.image_folders):
        return image_root  # beside the images, wherever `image_folder` has them
    folders = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    for name in declared.reference_folders:
        if name.lower() in folders:
            return folders[name.lower()]
    raise DataError(
        f"{key}.full_reference=true: no folder {root / declared.reference_folders[0]} of reference "
        "images, where the set's archive has it"
    )


def _files(names: list[str], folder: Path, asked: str) -> list[tuple[str, Path]]:
    """Each reference with its file."""
    index = ImageIndex(folder, own_names=True)
    found = [(name, index.find(name)) for name in names]
    missing = [f"{folder / name}: {file.problem}" for name, file in found if file.path is None]
    if missing:
        more = f"; and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise DataError(
            f"{asked}: {len(missing)} of {len(names)} reference images cannot be used: "
            f"{'; '.join(missing[:_SHOWN])}{more}"
        )
    return [(name, folder / str(file.path)) for name, file in found]
