"""What a training leaves of the images that it learnt from, so that evaluations can recognise them.

`training_images.csv` in the run directory and in every export of the run, one line an image:

    dataset  name of the set's format (`kadid`)
    split    train, or val: the validation images, which choose the exported step
    name     first 16 hexadecimal digits of SHA-256(dataset/name of the image in the set)
    size     bytes of the file
    content  first 32 hexadecimal digits of the SHA-256 of the whole file; empty: unreadable
    perceptual_hash  of `near_duplicates.py`; empty: undecodable, one flat colour, or not wanted

Names stand in it as digests only, since exports are made public. Whole files are read, because
images of one reference can share long stretches (uncompressed formats); several threads do it,
1.6 GB a second each at most, once for each run. Records of before have no perceptual hash.

Not here: looking evaluated images up (`vqr1.evaluation.trained_on`).
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Container, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from vqr1.data.near_duplicates import HASH_DIGITS, image_hashes
from vqr1.durable import write_file
from vqr1.errors import DataError

FILE = "training_images.csv"

EXPORTS = ("export", "export_average")
"""Folders that a training exports to, in its run directory."""

_THREADS = 8


@dataclass(frozen=True)
class RecordedImage:
    """One line of the record."""

    dataset: str
    split: str
    name: str
    size: int
    content: str
    perceptual_hash: str = ""


HEADER = [field.name for field in fields(RecordedImage)]


def name_digest(dataset: str, name: str) -> str:
    """Digest of an image's name in its set."""
    return hashlib.sha256(f"{dataset}/{name}".encode(errors="surrogateescape")).hexdigest()[:16]


def file_size(file: Path) -> int:
    """Bytes of a file; -1 where it cannot be looked at."""
    try:
        return file.stat().st_size
    except OSError:
        return -1


def file_digest(file: Path) -> str:
    """Digest of a file's bytes; empty where it cannot be read."""
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()[:32]
    except OSError:
        return ""


def recorded_images(
    images: Iterable[tuple[str, str, str, Path]], unhashed: Container[str] = (), shown: bool = False
) -> list[RecordedImage]:
    """Records of (dataset, split, name, file), in order; every file is read.

    Args:
        images: of one or several sets.
        unhashed: datasets whose images get no perceptual hash.
        shown: with a progress bar.
    """
    listed = list(images)
    decoded = [number for number, image in enumerate(listed) if image[0] not in unhashed]
    hashes = image_hashes([listed[number][3] for number in decoded], shown=shown)
    hash_of = dict(zip(decoded, hashes, strict=True))
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads:
        contents = threads.map(file_digest, [file for *_, file in listed])
        return [
            RecordedImage(
                dataset,
                split,
                name_digest(dataset, name),
                file_size(file),
                content,
                hash_of.get(number, ""),
            )
            for number, ((dataset, split, name, file), content) in enumerate(
                zip(listed, contents, strict=True)
            )
        ]


def write_record(folder: Path, images: Sequence[RecordedImage]) -> None:
    """Write the record of a folder, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(astuple(image) for image in dict.fromkeys(images))
    write_file(folder / FILE, text.getvalue())


def read_record(folder: Path) -> list[RecordedImage] | None:
    """The record of a folder; None where it holds none.

    Raises:
        DataError: the file is damaged.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    lines = list(csv.reader(io.StringIO(file.read_text(encoding="utf-8"))))
    known = HEADER[:-1] if lines and lines[0] == HEADER[:-1] else HEADER
    if not lines or lines[0] != known:
        raise DataError(f"{file}: line 1: the header must be {','.join(HEADER)}; remove the file")
    found = []
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(known) or not line[3].lstrip("-").isdigit():
            raise DataError(
                f"{file}: line {number}: {len(line)} fields, expected {len(known)} with the size "
                "as a whole number; restore the file from the run, or remove it"
            )
        if len(line) == len(HEADER) and not _is_hash(line[-1]):
            raise DataError(
                f"{file}: line {number}: perceptual_hash={line[-1][:20]!r} must be {HASH_DIGITS} "
                "hexadecimal digits or empty; restore the file from the run, or remove it"
            )
        found.append(RecordedImage(line[0], line[1], line[2], int(line[3]), *line[4:]))
    return found


def _is_hash(text: str) -> bool:
    return not text or (len(text) == HASH_DIGITS and set(text) <= set("0123456789abcdef"))


def record_of_model(path: str | Path | None) -> list[RecordedImage] | None:
    """The record of a model's own training: in its folder, or in the run whose export it is.

    Raises:
        DataError: the file is damaged.
    """
    if path is None:
        return None
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return None  # a name on the hub
    found = read_record(folder)
    if found is None and folder.name in EXPORTS:
        found = read_record(folder.resolve().parent)
    return found


def copy_record(folder: Path, other: Path) -> None:
    """Copy the record of a folder into another one; nothing where one of them does not exist."""
    if other.is_dir() and (folder / FILE).is_file():
        write_file(other / FILE, (folder / FILE).read_bytes())
