"""A set of which only preferences between pairs of images are known: the images of its pairs.

Their MOS are scores fitted to the pairs when the set is opened (`vqr1.data.fitted_scores`).
"""

from __future__ import annotations

from vqr1.data.labels._format import LabelFormat, LabelRow, LabelSource
from vqr1.data.preference_file import read_preference_rows
from vqr1.errors import ConfigError


def parse(source: LabelSource) -> list[LabelRow]:
    """One row for each image in a pair, in the order of the file, all with a score of 0.

    Raises:
        ConfigError: no file of pairs is named.
    """
    if source.config is None:
        raise ConfigError([f"{source.key}.pairs.file=None: name the file of pairs"])
    rows = read_preference_rows(source.config, source.root, source.key)
    source.notes.append(f"pairs, {rows.form}")
    return [LabelRow(image=name, mos=0.0, where=where) for name, where in rows.names().items()]


FORMAT = LabelFormat(
    name="pairs",
    title="pairs",
    published_direction="higher",
    published_range=None,
    image_folders=("images", "."),
    parse=parse,
    scored=False,
)
