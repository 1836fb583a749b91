"""The published training JSONL, from a set's official label files.

One line an image, in the label file's order, the form of the VisualQuality-R1 release: ids from 1
over the whole file, MOS scaled min-max to [1, 5] over each whole set. Several sets follow each
other in one file under their own `dataset_name`. With the released split (`dataset=kadid`), the
training split equals `RL-KADID-10K_train_scoring.jsonl` byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vqr1.config import DatasetConfig
from vqr1.counted import counted
from vqr1.data.jsonl import JsonlLine, jsonl_text, write_jsonl
from vqr1.data.labelled_set import LabelledSet, open_dataset
from vqr1.data.labels import label_format
from vqr1.errors import ConfigError, DataError
from vqr1.outputs import check_file

SPLITS = ("train", "val", "test", "all")


def jsonl_lines(labelled: LabelledSet, split: str) -> list[JsonlLine]:
    """One set's lines; `split` is one of `SPLITS`.

    Raises:
        DataError: images outside the image folder, which no such file may name.
    """
    rows = labelled.table if split == "all" else labelled.rows(split)  # type: ignore[arg-type]
    if not label_format(labelled.config.name, labelled.key).scored:
        rows = rows[rows["split"].notna()]  # the others are in no pair that a score is fitted to
    outside = next((i for images in rows["images"] for i in images if i.startswith("../")), None)
    if outside is not None:
        raise DataError(
            f"{labelled.key}.image_folder={labelled.config.image_folder!r}: {outside} lies outside "
            f"{labelled.image_root}, where no such file may name it; set {labelled.key}."
            "image_folder=. for paths from the set's root"
        )
    return [
        JsonlLine(labelled.title, images[-1], score, images=images if len(images) > 1 else ())
        for images, score in zip(rows["images"], rows["mos_scaled"].tolist(), strict=True)
    ]


def prepare(sets: Mapping[str, tuple[str, DatasetConfig]], split: str, out: Path | None) -> None:
    """Write the file and print what is in it.

    Args:
        sets: by name, a set's dotted configuration key and its configuration.
        split: one of `SPLITS`.
        out: file to write; None is `prepared/NAME_SPLIT.jsonl`.

    Raises:
        UserError: a set has no such images or bad labels, or the file cannot be written.
    """
    lines: list[JsonlLine] = []
    names: list[str] = []
    for name, (key, config) in sets.items():
        labelled = open_dataset(config, key, name)
        found = jsonl_lines(labelled, split)
        if not found:
            raise DataError(f"{key}.split: {name} has no {split} images; try --split all")
        if labelled.title in names:
            raise DataError(
                f"{key}: another set is called {labelled.title} too; one file cannot keep them "
                "apart, so write one file each"
            )
        names.append(labelled.title)
        lines += found
        print(
            f"{name}: {len(found)} of {counted(len(labelled.table), 'image')} as {labelled.title!r}"
        )
    out = out or Path("prepared") / f"{'+'.join(sets)}_{split}.jsonl"
    content = "".join(jsonl_text(lines)).encode()
    # A released file has the same form: only the same content shows that nothing is lost.
    check_file(out, "--out", lambda path: path.read_bytes() == content)
    try:
        count = write_jsonl(out, lines)
    except OSError as error:
        raise ConfigError([f"--out={out}: cannot be written ({error.strerror})"]) from error
    print(f"{count} lines in {out}")
