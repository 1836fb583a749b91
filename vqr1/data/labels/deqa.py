"""DeQA-Score's metas as a set of their own, whichever set they are of; see `_deqa.py`.

The lists of the sets known here are also a form of these: `dataset=koniq_scores`, `dataset=csiq`.
"""

from __future__ import annotations

from pathlib import Path

from vqr1.data.labels._deqa import METAS, lists_in, parse_lists
from vqr1.data.labels._format import LabelFormat, LabelRow, LabelSource
from vqr1.errors import ConfigError


def parse(source: LabelSource) -> list[LabelRow]:
    """Rows of the configured list, or of all lists in the configured folder."""
    paths = _paths(source)
    source.notes.append(f"DeQA-Score ({', '.join(path.name for path in paths)})")
    return parse_lists(paths)


def _paths(source: LabelSource) -> list[Path]:
    named = source.named_path()
    if named is not None and not named.is_dir():
        return [source.main_file()]
    if named is not None:
        folders = [named]
    else:
        folders = [
            source.root,
            *sorted(source.root.glob(f"{METAS}/")),
            *sorted(source.root.glob(f"*/{METAS}/")),
        ]
    found = {folder: paths for folder in folders if (paths := lists_in(folder))}
    if len(found) != 1:
        shown = ", ".join(str(folder.relative_to(source.root)) for folder in found)
        of = (
            f"{source.root} has lists in {shown}"
            if found
            else f"no train_*.json or test_*.json in {named or source.root}"
        )
        raise ConfigError(
            [
                f"{source.key}.label_file={source.label_file!r}: {of}; name the list, "
                f"or the folder of one set's lists, relative to {source.key}.root"
            ]
        )
    return next(iter(found.values()))


FORMAT = LabelFormat(
    name="deqa",
    title="deqa",
    published_direction="higher",
    published_range=None,
    image_folders=(".",),
    parse=parse,
    foreign_paths=True,
)
