"""The published training JSONL as a data set; see `vqr1.data.jsonl` for its form."""

from __future__ import annotations

from vqr1.data.jsonl import read_jsonl
from vqr1.data.labels._format import LabelFormat, LabelRow, LabelSource
from vqr1.errors import ConfigError


def parse(source: LabelSource) -> list[LabelRow]:
    """Rows of the configured JSONL file, of one data set.

    Raises:
        ConfigError: the file holds several sets and none is named, or not the named one.
    """
    path = source.main_file()
    lines = read_jsonl(path)
    names = sorted({line.dataset_name for line in lines})
    key = f"{source.key}.select"
    if source.select is None and len(names) > 1:
        raise ConfigError(
            [
                f"{key}=None: {path} holds {len(names)} sets ({', '.join(names)}), and a ranking "
                f"batch never mixes sets; name one here, and list the file once for each set"
            ]
        )
    if source.select is not None and source.select not in names:
        raise ConfigError([f"{key}={source.select!r}: {path} holds {', '.join(names)}"])
    return [
        LabelRow(line.image, line.mos, line.where, images=line.images)
        for line in lines
        if source.select is None or line.dataset_name == source.select
    ]


FORMAT = LabelFormat(
    name="jsonl",
    title="jsonl",
    published_direction="higher",
    published_range=None,
    image_folders=("images", "."),
    parse=parse,
)
