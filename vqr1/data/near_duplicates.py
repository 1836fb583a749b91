"""Near-identical images: the same content in other bytes (re-encoded, resized, slightly cropped).

Each image gets a perceptual hash, the 256 signs about their median of the lowest 16 x 16 DCT
coefficients of its 64 x 64 grey thumbnail (`imagehash.phash`). Two images are near-identical where
at most `MAX_DISTANCE` bits differ. On 5,000 images of BIQ2021: copies re-encoded or resized
differ in at most 12 bits, 98 % of those cropped by 2 % in at most 48, and pairs of different scenes
in more than 60 (`scripts/bench_near_duplicates.py` measures it). The hash ignores brightness and
contrast, so a distorted version of the same photograph counts too.

Hashes of folders with more than a few images are kept in the cache folder (`$VQR1_CACHE`), one file
for each image folder, and made anew where size or modification time of an image has changed.

Not here: copies with equal bytes (`image_record.py`), what a data set does with what is found
(`split_duplicates.py`).
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagehash
import numpy as np
from filelock import FileLock, Timeout

from vqr1.data.demo import default_cache_dir
from vqr1.data.images import load_thumbnail
from vqr1.durable import write_file
from vqr1.errors import DataError
from vqr1.progress import progress_bar

logger = logging.getLogger(__name__)

MAX_DISTANCE = 48
"""Bits of 256 in which two near-identical images differ at most."""

HASH_DIGITS = 64

_HASH_SIZE = 16
_THUMBNAIL = 128
_FLATTEST = 4
"""Range of grey values, of 255, below which a thumbnail shows nothing and gets no hash."""

_FORMAT = 1
"""Raise it when hashes change: those of caches are made anew."""

_BLOCK = 512
_MANY = 500
_FEW = 100
"""Images of a folder below which making hashes anew costs less than a file in the cache."""

_THREADS = 8
_LOCK_SECONDS = 1800


def perceptual_hash(file: Path) -> str:
    """64 hexadecimal digits; empty where the file does not decode or shows one flat colour."""
    try:
        thumbnail = load_thumbnail(file, _THUMBNAIL)
    except DataError:
        return ""
    flat = np.ptp(np.asarray(thumbnail).astype(np.int64)) < _FLATTEST
    return "" if flat else str(imagehash.phash(thumbnail, _HASH_SIZE))


def image_hashes(files: Sequence[Path], *, shown: bool = False) -> list[str]:
    """Perceptual hash of each file, from the cache where it is known; several threads decode.

    Args:
        files: images.
        shown: with a progress bar, where there are many.
    """
    shown = shown and len(files) >= _MANY
    with progress_bar("perceptual hashes", len(files), shown=shown) as advance:
        folders: dict[str, list[int]] = defaultdict(list)
        for number, file in enumerate(files):
            folders[os.path.dirname(os.path.realpath(file))].append(number)
        hashes = [""] * len(files)
        for folder, numbers in folders.items():
            found = _folder_hashes(folder, [files[number] for number in numbers], advance)
            for number, value in zip(numbers, found, strict=True):
                hashes[number] = value
    return hashes


def near_pairs(
    left: Sequence[str], right: Sequence[str] | None = None, limit: int = MAX_DISTANCE
) -> np.ndarray:
    """Pairs of hashes that differ in at most `limit` bits, by exhaustive comparison.

    Args:
        left: L hashes; an empty one is in no pair.
        right: R hashes; None compares `left` with itself, each pair once.
        limit: bits.

    Returns:
        [P, 3] of position in `left`, position in `right`, differing bits.
    """
    left_at, left_bits = _bits(left)
    right_at, right_bits = (left_at, left_bits) if right is None else _bits(right)
    found = [np.zeros((0, 3), np.int64)]
    for start in range(0, len(left_at), _BLOCK):
        rows = left_bits[start : start + _BLOCK]
        first = start if right is None else 0
        distance = np.zeros((len(rows), len(right_at) - first), np.uint16)
        for word in range(rows.shape[1]):
            distance += np.bitwise_count(rows[:, word, None] ^ right_bits[None, first:, word])
        i, j = np.nonzero(distance <= limit)
        kept = slice(None) if right is not None else j > i
        pairs = (left_at[start + i], right_at[first + j], distance[i, j])
        found.append(np.stack([column.astype(np.int64) for column in pairs], axis=1)[kept])
    return np.concatenate(found)


def _bits(hashes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Positions [N] of the hashes that are not empty, and their bits as [N, 4] of 64."""
    known = [number for number, value in enumerate(hashes) if value]
    raw = bytes.fromhex("".join(hashes[number] for number in known))
    words = np.frombuffer(raw, dtype=np.uint64).reshape(len(known), HASH_DIGITS // 16)
    return np.array(known, dtype=np.int64), words


def _folder_hashes(folder: str, files: Sequence[Path], advance: Callable[[int], None]) -> list[str]:
    if len(files) < _FEW:
        return _hashed(None, files, advance)
    name = hashlib.sha256(f"{_FORMAT}:{folder}".encode(errors="surrogateescape")).hexdigest()[:32]
    cached = default_cache_dir() / "image_hashes" / f"{name}.csv"
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{cached}.lock", timeout=_LOCK_SECONDS):  # others wait instead of hashing
            return _hashed(cached, files, advance)
    except (PermissionError, FileExistsError, NotADirectoryError, Timeout) as error:
        logger.warning("perceptual hashes are not kept in %s: %s", cached.parent, error)
        return _hashed(None, files, advance)


def _hashed(
    cached: Path | None, files: Sequence[Path], advance: Callable[[int], None]
) -> list[str]:
    known = {} if cached is None else _read(cached)
    keys = [_state(file) for file in files]
    missing = [number for number, key in enumerate(keys) if key not in known]
    advance(len(files) - len(missing))
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads:
        made = threads.map(perceptual_hash, [files[number] for number in missing])
        for number, value in zip(missing, made, strict=True):
            known[keys[number]] = value
            advance(1)
    if cached is not None and missing:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows((*k, v) for k, v in known.items())
        write_file(cached, text.getvalue())
    return [known[key] for key in keys]


def _state(file: Path) -> tuple[str, str, str]:
    """What a file's hash is kept under: digest of its name, size, modification time."""
    name = hashlib.sha256(os.fsencode(os.path.realpath(file))).hexdigest()[:16]
    try:
        status = file.stat()
    except (OSError, ValueError):
        return name, "", ""
    return name, str(status.st_size), str(status.st_mtime_ns)


def _read(cached: Path) -> dict[tuple[str, str, str], str]:
    if not cached.is_file():
        return {}
    rows = csv.reader(io.StringIO(cached.read_text(encoding="utf-8", errors="replace")))
    return {(r[0], r[1], r[2]): r[3] for r in rows if len(r) == 4 and len(r[3]) in (0, HASH_DIGITS)}
