"""Predictions from and to files: our own, and any table of image, score and MOS.

What it does: reads CSV or Parquet with one row an answer (columns image and score, and optionally
mos, dataset, sample, reference, distortion, format_compliant, index, lost, text, decoded_at; a
score that is empty is an invalid answer), checks every row, and
writes finished predictions in either format. A file that breaks a rule is refused with the line.
`PredictionStream` appends batches while they are scored.

Not here: how a file that was torn off is resumed (`vqr1.inference.resume`), and what
makes a CSV file sound (`vqr1.data.tables`).
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd

from vqr1.config import PredictionColumns
from vqr1.config.renamed import present_name
from vqr1.data.tables import check_unique, parse_number, read_csv, separator_hint
from vqr1.durable import replacing
from vqr1.errors import DataError
from vqr1.evaluation.file_labels import some_of, with_labels_of
from vqr1.evaluation.predictions import Predictions
from vqr1.inference.resume import GrowingFile
from vqr1.tracking import RunLog

COLUMNS = (
    "dataset", "image", "index", "sample", "score", "valid", "format_compliant", "mos", "reference",
    "distortion", "lost", "text", "decoded_at",
)  # fmt: skip
"""One row an answer: sample counts an image's answers from 0; score is empty where not valid; mos
is turned so that higher is better; lost is empty where the mode has none; decoded_at is empty where
the image was decoded whole."""
_MISSING = ("", "nan", "NaN")
_TRUE, _FALSE = ("1", "1.0", "true"), ("0", "0.0", "false", "")
_WHERE = "where"
"""Column of a loaded table: the place of each row in its file, as messages name it."""
OPTIONAL = (
    "mos", "dataset", "sample", "reference", "distortion", "lost", "text", "index",
    "format_compliant", "decoded_at",
)  # fmt: skip


def rows_of(predictions: Predictions) -> Iterator[tuple[object, ...]]:
    """One tuple of `COLUMNS` an answer, images in order."""
    for i, image in enumerate(predictions.images):
        for k, text in enumerate(predictions.texts[i]):
            score = float(predictions.scores[i, k])
            yield (
                predictions.datasets[i],
                image,
                int(predictions.index[i]),
                k,
                "" if math.isnan(score) else repr(score),
                int(predictions.valid[i, k]),
                int(predictions.format_compliant[i, k]),
                repr(float(predictions.mos[i])),
                predictions.references[i] or "",
                predictions.distortions[i] or "",
                "" if math.isnan(predictions.lost[i]) else repr(float(predictions.lost[i])),
                # Readers of CSV take a NUL byte for the end of the file.
                text.replace("\0", "\N{REPLACEMENT CHARACTER}"),
                predictions.decoded_at[i] or "",
            )


def csv_writer(file: TextIO) -> Any:
    """A writer that quotes everything: it would leave a carriage return in a text unquoted."""
    return csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)


class PredictionStream:
    """A growing CSV file of predictions that a killed process can continue.

    Args:
        path: the file; continued where it exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = GrowingFile(path)
        # A file of an earlier version continues with the columns that it has.
        self._columns = COLUMNS if self._file.empty else tuple(map(present_name, _header(path)))
        if self._file.empty:
            self._file.append(_csv_text([COLUMNS]))

    def append(self, predictions: Predictions) -> None:
        """Write and commit a batch."""
        kept = [COLUMNS.index(name) for name in self._columns if name in COLUMNS]
        self._file.append(
            _csv_text(tuple(row[column] for column in kept) for row in rows_of(predictions))
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _header(path: Path) -> tuple[str, ...]:
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(next(csv.reader(file)))


def _csv_text(rows: Iterable[tuple[object, ...]]) -> str:
    text = io.StringIO()
    csv_writer(text).writerows(rows)
    return text.getvalue()


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Write predictions as CSV or Parquet (by the suffix), replacing the file as a whole."""
    with replacing(path) as aside:
        if path.suffix == ".parquet":
            table = pd.DataFrame(list(rows_of(predictions)), columns=list(COLUMNS))
            table["score"] = pd.to_numeric(table["score"])
            table["mos"] = pd.to_numeric(table["mos"])
            table["lost"] = pd.to_numeric(table["lost"])
            table.to_parquet(aside, index=False)
        else:
            with aside.open("w", encoding="utf-8", errors="replace", newline="") as file:
                writer = csv_writer(file)
                writer.writerow(COLUMNS)
                writer.writerows(rows_of(predictions))


def keep_predictions(predictions: Predictions, run_log: RunLog, name: str) -> None:
    """Put predictions into a run's folder, `predictions/<name>.csv`, and to its artifacts."""
    file = f"predictions/{name}.csv"
    path = run_log.run_dir / file
    path.parent.mkdir(parents=True, exist_ok=True)
    write_predictions(predictions, path)
    run_log.keep(file)


def read_predictions(
    path: Path,
    columns: PredictionColumns | None = None,
    labels: Mapping[str, pd.DataFrame] | None = None,
) -> Predictions:
    """Read a table of answers.

    Args:
        path: CSV (with a header line) or Parquet file.
        columns: column names and directions; our own if not given.
        labels: by set, MOS to use instead of the file's own: columns image, mos,
            reference and distortion, one row an image. With one set the file needs no column
            dataset. Where there is a column evaluated (bool), the file needs only those rows'
            images, and predictions of the others are excluded.

    Returns:
        Images in the file's order. An empty score is an invalid answer.

    Raises:
        DataError: no such file, a missing column, a score or MOS that is no number, the
            same answer twice, images with different numbers of answers, an image with two MOS
            scores, or images that do not match the labels.
    """
    columns = columns or PredictionColumns()
    table = _load(path, columns, only=next(iter(labels)) if labels and len(labels) == 1 else None)
    table["score"] = _numbers(table, "score", missing=True)
    if columns.score_lower_is_better:
        table["score"] = -table["score"]
    if labels is not None:
        table["mos"] = np.nan
    elif "mos" in table:
        table["mos"] = _numbers(table, "mos", missing=False)
    else:
        raise DataError(
            f"{path}: no column {columns.mos!r} (found: {', '.join(table.attrs['found'])}); name "
            "it with columns.mos, or take the MOS from a data set with labels=dataset"
        )
    if columns.mos_lower_is_better and labels is None:
        table["mos"] = -table["mos"]
    _check_unique(table)
    predictions = _gather(path, table)
    return predictions if labels is None else with_labels_of(path, predictions, labels)


def _load(path: Path, columns: PredictionColumns, only: str | None) -> pd.DataFrame:
    """The file with our own column names, all values as text, and the place of every row.

    Rows of a file without a column dataset belong to the set `only`, or one named as the file.
    """
    raw, places, hint = _raw_parquet(path) if path.suffix == ".parquet" else _raw_csv(path)
    names = {ours: getattr(columns, ours, ours) for ours in ("image", "score", *OPTIONAL)}
    for ours in ("image", "score"):
        if names[ours] not in raw:
            raise DataError(
                f"{path}: no column {names[ours]!r} (found: {', '.join(raw)}); "
                f"name it with columns.{ours}{hint}"
            )
    table = pd.DataFrame({ours: raw[name] for ours, name in names.items() if name in raw})
    if not len(table):
        raise DataError(f"{path}: no rows")
    table[_WHERE] = places
    nameless = table["image"].str.strip() == ""
    if nameless.any():
        raise DataError(f"{table[_WHERE][nameless].iloc[0]}: no image name in this row")
    table.attrs["found"] = list(raw)
    for ours, default in (("dataset", only or path.stem), ("sample", "0")):
        if ours not in table:
            table[ours] = default
    return table


def _raw_csv(path: Path) -> tuple[dict[str, list[str]], list[str], str]:
    """Columns as text by name, the place of each row, and a hint for a column that is missing."""
    table = read_csv(path)
    columns = {present_name(name): table.column(name) for name in table.names}
    return (
        columns,
        [table.where(row) for row in range(len(table.rows))],
        separator_hint(table.columns),
    )


def _raw_parquet(path: Path) -> tuple[dict[str, list[str]], list[str], str]:
    """The same of a Parquet file."""
    import pyarrow.parquet

    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        check_unique([str(name) for name in pyarrow.parquet.read_schema(path).names], str(path))
        raw = pd.read_parquet(path)
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: no readable Parquet file: {error}") from error
    raw = raw.astype(object).where(raw.notna(), "").map(str)
    columns = {present_name(str(name)): raw[name].tolist() for name in raw.columns}
    return columns, [f"{path}, row {row + 1}" for row in range(len(raw))], ""


def _numbers(table: pd.DataFrame, name: str, missing: bool) -> pd.Series:
    text = table[name].str.strip()
    found = [parse_number(value) for value in text]
    values = pd.Series(found, index=table.index, dtype=np.float64)
    empty = text.isin(_MISSING)
    bad = ~np.isfinite(values) & (~empty | (not missing))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        rule = "must be a number, or empty for an invalid answer" if missing else "must be a number"
        raise DataError(
            f"{table[_WHERE].iat[row]}: {name} {table[name].iat[row]!r} of image "
            f"{table['image'].iat[row]!r}: {rule} ({int(bad.sum())} such rows)"
            f"{'; write decimals with a point' if ',' in str(text.iat[row]) else ''}"
        )
    return values


def _truths(table: pd.DataFrame, name: str) -> np.ndarray:
    """[rows] bool of a column of yes and no."""
    text = table[name].str.strip().str.lower()
    true = text.isin(_TRUE)
    bad = ~true & ~text.isin(_FALSE)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"{table[_WHERE].iat[row]}: {name} {table[name].iat[row]!r} of image "
            f"{table['image'].iat[row]!r}: must be 1 or 0"
        )
    return true.to_numpy()


def _check_unique(table: pd.DataFrame) -> None:
    twice = table.duplicated(["dataset", "image", "sample"])
    if twice.any():
        rows = np.flatnonzero(twice)
        raise DataError(
            f"{table[_WHERE].iat[rows[0]]}: {len(rows)} rows repeat an image and sample: "
            f"{some_of(table['image'].iloc[rows].tolist())}; give each answer of an image its own "
            "number in a column sample, or remove the repetitions"
        )


def _gather(path: Path, table: pd.DataFrame) -> Predictions:
    """One row an image, its answers side by side."""
    keys = list(zip(table["dataset"], table["image"], strict=True))
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    image = np.array([number[key] for key in keys])
    order = np.argsort(image, kind="stable")
    counts = np.bincount(image)
    samples = int(counts.max())
    if (counts != samples).any():
        few = [key[1] for key, i in number.items() if counts[i] != samples]
        raise DataError(
            f"{path}: {len(few)} images have fewer than {samples} answers: {some_of(few)}; every "
            "image needs the same number of rows (an invalid answer is a row with an empty score)"
        )
    sample = pd.to_numeric(table["sample"], errors="coerce").to_numpy()
    order = order[np.lexsort((sample[order], image[order]))]
    shape = (len(number), samples)
    first = order.reshape(shape)[:, 0]
    scores = table["score"].to_numpy()[order].reshape(shape)

    def column(name: str, default: str) -> np.ndarray:
        values = table[name].to_numpy(dtype=object) if name in table else [default] * len(table)
        return np.asarray(values, dtype=object)

    by_image = table["mos"].to_numpy(dtype=np.float64)[order].reshape(shape)
    torn = np.flatnonzero((by_image != by_image[:, :1]).any(axis=1) & np.isfinite(by_image[:, 0]))
    if len(torn):
        row = int(order.reshape(shape)[torn[0], -1])
        raise DataError(
            f"{table[_WHERE].iat[row]}: image {table['image'].iat[row]!r} has two MOS; "
            "all rows of an image need the same one"
        )
    texts = column("text", "")[order].reshape(shape)
    formed = (
        _truths(table, "format_compliant")
        if "format_compliant" in table
        else np.full(len(table), True)
    )
    references, distortions = column("reference", "")[first], column("distortion", "")[first]
    index = pd.to_numeric(pd.Series(column("index", "")[first]), errors="coerce").to_numpy()
    lost = pd.to_numeric(pd.Series(column("lost", "")[first]), errors="coerce").to_numpy(np.float64)
    return Predictions(
        images=tuple(key[1] for key in number),
        datasets=tuple(key[0] for key in number),
        index=np.where(np.isnan(index), np.arange(len(number)), index).astype(np.int64),
        mos=by_image[:, 0],
        scores=scores,
        valid=np.isfinite(scores),
        format_compliant=formed[order].reshape(shape),
        texts=tuple(tuple(row) for row in texts),
        references=tuple(str(name) or None for name in references),
        distortions=tuple(str(name) or None for name in distortions),
        lost=lost,
        decoded_at=tuple(str(size) or None for size in column("decoded_at", "")[first]),
    )
