"""Sets in Parquet with their images embedded: on the Hugging Face hub, or in a folder here.

The library `datasets` finds a set's files, splits and columns. The rows are read once, as a stream
of a few at a time, and laid down in the cache folder, each image byte for byte as an ordinary file:

    $VQR1_CACHE/hub/DIGEST/source.json   where it is from
                           rows.jsonl    a row a line: image, split, number, the other columns
                           images/NAME   the path that the row states of its image; else SPLIT/ROW

Workers, hashes and predictions then know files only, and no part of a Parquet file is held in
memory. A set in a folder is read again when one of its files changes; one of the hub stays as it
was fetched, until its folder in the cache is removed. Several processes may ask at once: one reads.

Not here: what the columns mean (`vqr1.data.labels.hub`). No code of a set is ever run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from filelock import FileLock
from rich.console import Console

from vqr1.config import CsvColumns, DatasetConfig
from vqr1.data.demo import default_cache_dir
from vqr1.data.images import IMAGE_SUFFIXES
from vqr1.data.labels._table import relative_image
from vqr1.durable import make_folder, place_folder
from vqr1.errors import ConfigError, DataError, first_line
from vqr1.program import installing
from vqr1.progress import progress_bar

logger = logging.getLogger(__name__)

ROWS, SOURCE, IMAGES = "rows.jsonl", "source.json", "images"

_FORMAT = 1
"""Raise it when what is laid down changes: sets are then read again."""

_BATCH = 16
"""Rows that are in memory at a time."""

_BUFFER = 2**20
"""Bytes of a column that are read ahead."""

_HUB_NAME = re.compile(r"[\w.-]+(?:/[\w.-]+)?(?:@[\w./-]+)?")

_SUFFIXES = (
    (b"\xff\xd8\xff", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"BM", ".bmp"),
    (b"II*\0", ".tif"), (b"MM\0*", ".tif"),
)  # fmt: skip


@dataclass(frozen=True)
class _Place:
    """Where a set's Parquet files are.

    Attributes:
        path: as configured.
        folder: the folder or file here; None on the hub.
        column: of the images.
        select: configuration of a set that has several.
        state: what differs between this set and others, or itself after a change.
    """

    path: str
    folder: Path | None
    column: str
    select: str | None
    state: dict[str, Any]


def ensure_hub_set(config: DatasetConfig, key: str) -> Path:
    """The folder that a set's rows are laid down in, read on first use.

    Args:
        config: the set, with `path`, `columns.image`, and in `select` the configuration of a set
            that has several.
        key: its dotted configuration key.

    Raises:
        ConfigError: a key does not fit, or the library is not installed.
        DataError: the set is not there, cannot be reached, is no Parquet, or a row has no image.
    """
    place = _place(config, key)
    digest = hashlib.sha256(json.dumps(place.state, sort_keys=True).encode()).hexdigest()[:32]
    cache = default_cache_dir() / "hub"
    folder = cache / digest
    if (folder / SOURCE).is_file():
        return folder
    make_folder(cache)
    with FileLock(cache / f"{digest}.lock"):
        if (folder / SOURCE).is_file():
            return folder
        for left in cache.glob(f"{digest}-*.part"):  # of processes that were killed
            shutil.rmtree(left, ignore_errors=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f"{digest}-", suffix=".part", dir=cache))
        try:
            _lay_down(place, key, unfinished)
            # mkdtemp makes the folder private; the cache may be shared between users.
            unfinished.chmod(0o755)
            place_folder(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _place(config: DatasetConfig, key: str) -> _Place:
    if config.path is None:
        raise ConfigError(
            [f"{key}.path=None: set it to a folder of Parquet files, or a set's name on the hub"]
        )
    column = (config.columns or CsvColumns()).image
    if not isinstance(column, str):
        raise ConfigError([f"{key}.columns.image={column}: Parquet columns have names; give one"])
    state: dict[str, Any] = {"format": _FORMAT, "image": column, "select": config.select}
    folder = Path(config.path).expanduser()
    if folder.exists():
        state["place"] = str(folder.resolve())
        state["files"] = _file_states(folder)
        if not any(name.endswith(".parquet") for name, *_ in state["files"]):
            raise DataError(f"{key}.path={config.path!r}: no .parquet file in this folder")
        return _Place(config.path, folder, column, config.select, state)
    if not _HUB_NAME.fullmatch(config.path):
        raise ConfigError([f"{key}.path={config.path!r}: no such folder, nor a name on the hub"])
    state["name"] = config.path
    return _Place(config.path, None, column, config.select, state)


def _file_states(folder: Path) -> list[tuple[str, int, int]]:
    """Name, size and modification time of the files that decide what a set holds."""
    if folder.is_file():
        paths, root = [folder], folder.parent
    else:
        paths, root = [*sorted(folder.rglob("*.parquet")), *folder.glob("README.md")], folder
    states = ((path.relative_to(root).as_posix(), path.stat()) for path in paths)
    return [(name, status.st_size, status.st_mtime_ns) for name, status in states]


def _lay_down(place: _Place, key: str, out: Path) -> None:
    """Write a set's rows and images into a folder.

    Raises:
        ConfigError: the library is not installed.
        DataError: as `ensure_hub_set`.
    """
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            [f"{key}.name=hub: needs the package datasets; install it with {installing('hub')}"]
        ) from error
    import httpx2
    import pyarrow as pa

    named = f"{key}.path={place.path!r}"
    logger.info("%s: its rows and images are written once into %s", named, out.parent)
    failures = (
        OSError, ValueError, RuntimeError, NotImplementedError, datasets.exceptions.DatasetsError,
        httpx2.HTTPError, pa.ArrowException,
    )  # fmt: skip
    shown = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # its errors are one line of ours
    try:
        builder = _builder(place, named)
        _write_set(builder, place, named, out)
        commit = builder.hash if place.folder is None else None
        source = {"path": place.path, "commit": commit, **place.state}
        (out / SOURCE).write_text(json.dumps(source, indent=1), encoding="utf-8")
    except failures as error:
        raise DataError(f"{named}: cannot be read ({first_line(error)})") from error
    finally:
        datasets.logging.set_verbosity(shown)


def _write_set(builder: Any, place: _Place, named: str, out: Path) -> None:
    total = sum(split.num_examples for split in (builder.info.splits or {}).values())
    names = _Names()
    console = Console(stderr=True)
    with (
        (out / ROWS).open("w", encoding="utf-8") as rows,
        progress_bar(place.path, total, shown=total > 0, console=console) as advance,
    ):
        for name, files in builder.config.data_files.items():
            split = str(name)
            stream = _stream(map(str, files), builder.info.features, place.column, named)
            for number, row in enumerate(stream):
                cell, where = row.pop(place.column), f"{place.path}:{split}[{number}]"
                content, stated = _embedded(cell, where)
                image = names.of_image(content, stated, f"{split}/{number:06d}")
                file = out / IMAGES / image
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
                _write_row(rows, image, split, number, row)
                advance(1)


def _builder(place: _Place, named: str) -> Any:
    """The library's reader of a set in Parquet.

    Raises:
        DataError: the set is in other files.
    """
    import datasets
    from datasets.packaged_modules.parquet.parquet import Parquet

    if place.folder is None:
        name, _, revision = place.path.partition("@")
        source: tuple[str, dict[str, Any]] = (name, {"revision": revision or None})
    elif place.folder.is_file():
        source = ("parquet", {"data_files": str(place.folder.resolve())})
    else:
        source = (str(place.folder.resolve()), {})
    builder = datasets.load_dataset_builder(source[0], place.select, **source[1])
    if not isinstance(builder, Parquet):
        raise DataError(f"{named}: not in Parquet; fetch its files, and read their table")
    return builder


def _stream(
    files: Iterable[str], features: Any, column: str, named: str
) -> Iterator[dict[str, Any]]:
    """Rows of one split: the image undecoded, and every column of one number or word.

    Args:
        files: Parquet files, here or on the hub (`hf://`).
        features: what the set states of its columns; None: what the first file does.
        column: of the images.
        named: key and value of the set's path, for messages.

    Raises:
        DataError: there is no such column of images.
    """
    import datasets
    import fsspec
    import pyarrow.parquet as pq

    for file in files:
        with fsspec.open(file, "rb") as content:
            # By default a whole row group, which may be the whole file, is in memory.
            parquet = pq.ParquetFile(content, buffer_size=_BUFFER, pre_buffer=False)
            features = features or datasets.Features.from_arrow_schema(parquet.schema_arrow)
            plain = _plain_columns(dict(features), column, named)
            if lacking := {column, *plain} - set(parquet.schema_arrow.names):
                raise DataError(f"{named}: {file} lacks the column {', '.join(sorted(lacking))}")
            labels = {name: features[name] for name in plain if hasattr(features[name], "int2str")}
            for batch in parquet.iter_batches(_BATCH, columns=[column, *plain], use_threads=False):
                for row in batch.to_pylist():
                    for name, feature in labels.items():
                        if row[name] is not None:
                            row[name] = feature.int2str(row[name])
                    yield row


def _plain_columns(features: dict[str, Any], column: str, named: str) -> list[str]:
    """The columns of one number or word, after a look at that of the images.

    Raises:
        DataError: there is no such column of images.
    """
    kind = features.get(column)
    struct = isinstance(kind, dict) and {"bytes", "path"} <= set(kind)
    if not (struct or _kind(kind) in ("PIL.Image.Image", "binary", "large_binary")):
        known = ", ".join(f"{name} ({_kind(feature)})" for name, feature in features.items())
        problem = "is not there" if kind is None else f"holds no images but {_kind(kind)}"
        raise DataError(
            f"{named}: the column {column!r} {problem}; columns.image is one of {known}"
        )
    return [name for name, feature in features.items() if name != column and _is_plain(feature)]


def _kind(feature: Any) -> str:
    return str(getattr(feature, "dtype", None) or type(feature).__name__)


def _is_plain(feature: Any) -> bool:
    return bool(re.match(r"(?:u?int|float|bool|string|large_string)", _kind(feature)))


class _Names:
    """Names of image files below one folder: each a file or a folder, never both, in any case."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def of_image(self, content: bytes, stated: str, row: str) -> str:
        """The path that a row states of its image, if it is that of a new file; else split and row.

        Args:
            content: the encoded image; its first bytes decide the ending.
            stated: the path, or nothing.
            row: split and number.
        """
        try:
            name = relative_image(stated, row)
        except DataError:
            name = ""
        if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES and self._take(name):
            return name
        endings = [ending for start, ending in _SUFFIXES if content.startswith(start)]
        name = f"{row}{(*endings, '.image')[0]}"
        while not self._take(name):
            name = f"rows/{name}"
        return name

    def _take(self, name: str) -> bool:
        """Whether a name is free; then it is taken."""
        folded = PurePosixPath(name.lower())
        folders = {str(folder) for folder in folded.parents}
        if str(folded) in self._files or str(folded) in self._folders or folders & self._files:
            return False
        self._files.add(str(folded))
        self._folders |= folders
        return True


def _embedded(cell: Any, where: str) -> tuple[bytes, str]:
    """The bytes of a row's image, and the path that the row states of it.

    Raises:
        DataError: the row holds no image.
    """
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    path = str(cell.get("path") or "") if isinstance(cell, dict) else ""
    if not isinstance(content, bytes) or not content:
        only = f", only the path {path!r}" if path else ""
        raise DataError(f"{where}: no image is embedded{only}")
    return content, path


def _write_row(rows: IO[str], image: str, split: str, number: int, values: dict[str, Any]) -> None:
    known = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
    record = {"image": image, "split": split, "row": number, "values": known}
    rows.write(json.dumps(record, ensure_ascii=False) + "\n")
