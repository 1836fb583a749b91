"""See in ten seconds whether a data set is complete and its labels point the right way.

    python scripts/inspect_dataset.py dataset=koniq dataset.root=data/koniq10k

Prints counts, the score histogram, the split table, and missing or undecodable images, and writes
a contact sheet from the worst to the best image (PNG). `--decode` images are opened fully, evenly
spaced over the set; `--decode all` opens every one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from vqr1.cli.data import named_parts, run_script
from vqr1.config import DataConfig, DatasetConfig
from vqr1.data.contact_sheet import Tile, contact_sheet, spread_positions
from vqr1.data.images import load_image
from vqr1.data.labelled_set import LabelledSet, open_dataset
from vqr1.data.labels import label_format
from vqr1.errors import DataError

SHOWN = 10
BINS = 12
BAR_WIDTH = 40


def undecodable(path: Path) -> str | None:
    """Why an image does not decode, or None if it does."""
    try:
        load_image(path)
    except DataError as error:
        return str(error)
    return None


def decode_problems(labelled: LabelledSet, count: int, workers: int) -> list[str]:
    """Decode at most `count` images, evenly spaced; the problems met."""
    paths = [labelled.image_path(row) for row in spread_positions(len(labelled.table), count)]
    with ThreadPoolExecutor(workers) as pool:  # decoders release the interpreter lock
        return [problem for problem in pool.map(undecodable, paths) if problem is not None]


def histogram_lines(scores: Sequence[float] | np.ndarray) -> list[str]:
    """Text bars of a score histogram, lowest score first."""
    counts, edges = np.histogram(np.asarray(scores), bins=BINS)
    scale = BAR_WIDTH / max(counts.max(), 1)
    return [
        f"{low:10.3f} to {high:9.3f} {'#' * round(count * scale):<{BAR_WIDTH}} {count}"
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]


def sheet_of(labelled: LabelledSet, columns: int, rows: int) -> list[Tile]:
    """Tiles from the worst to the best image, evenly spaced in rank."""
    ranked = labelled.table.sort_values("mos", kind="stable")
    tiles = []
    for position in spread_positions(len(ranked), columns * rows):
        row = ranked.iloc[position]
        try:
            picture = load_image(labelled.image_root / row["image"])
        except DataError:
            picture = None
        tiles.append(Tile(picture, f"{row['mos']:.3f}", row["image"]))
    return tiles


def split_table(labelled: LabelledSet) -> Table:
    """Images, references and score range of each part."""
    table = Table(title="parts", title_justify="left")
    for heading in ("part", "images", "references", "mean MOS", "lowest", "highest"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    shares = labelled.table["split"].fillna("(in no part)")
    for part in ("train", "val", "test", "(in no part)"):
        rows = labelled.table[shares == part]
        if len(rows):
            scores = (f"{value:.3f}" for value in (rows.mos.mean(), rows.mos.min(), rows.mos.max()))
            references = rows.reference.nunique()
            table.add_row(part, str(len(rows)), str(references) if references else "-", *scores)
    return table


def report(
    console: Console, options: argparse.Namespace, name: str, key: str, config: DatasetConfig
) -> None:
    """Print one set's report and write its contact sheet."""
    lenient = replace(config, on_bad_image="skip", max_bad_share=1.0)
    labelled = open_dataset(lenient, key, name)
    declared = label_format(config.name, key)
    console.rule(f"{name} ({labelled.title})")
    expected = f" of {declared.images} in the complete set" if declared.images else ""
    console.print(
        f"{len(labelled.table)} images{expected}, in {labelled.image_root}", soft_wrap=True
    )
    published = declared.published_direction
    turned = config.lower_is_better or published == "lower"
    console.print(
        f"published scores: {'LOWER' if turned else 'higher'} is better"
        + (", turned here so that higher is better" if turned else "")
    )
    for line in histogram_lines(labelled.table["mos"].to_numpy()):
        console.print(line, highlight=False)
    console.print(split_table(labelled))
    _print_problems(console, "missing, empty or folders", labelled.bad_images)
    total = len(labelled.table)
    count = total if options.decode == "all" else min(int(options.decode), total)
    problems = decode_problems(labelled, count, options.workers) if count else []
    _print_problems(console, f"undecodable among {count} opened", problems)
    out = options.out / f"{name}.png"
    out.parent.mkdir(parents=True, exist_ok=True)
    title = f"{labelled.title}: worst (top left) to best (bottom right), {total} images"
    tiles = sheet_of(labelled, options.columns, options.rows)
    contact_sheet(title, tiles, options.columns).save(out)
    console.print(f"contact sheet: {out}", soft_wrap=True)


def _print_problems(console: Console, kind: str, problems: Sequence[str]) -> None:
    console.print(f"{len(problems)} images are {kind}")
    for problem in problems[:SHOWN]:
        console.print(f"  {problem}", highlight=False, markup=False, soft_wrap=True)
    if len(problems) > SHOWN:
        console.print(f"  and {len(problems) - SHOWN} more")


def inspect(options: argparse.Namespace, config: DataConfig) -> None:
    """Report on every set."""
    console = Console()
    for name, (key, part) in named_parts(config).items():
        report(console, options, name, key, part)


def decode_count(text: str) -> str:
    """`all` or a number, checked."""
    if text != "all" and not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor 'all'")
    return text


def main(arguments: list[str] | None = None) -> int:
    """Run the script and return its exit code."""
    parser = argparse.ArgumentParser(description="Look at a data set.")
    parser.add_argument("--out", type=Path, default=Path("inspected"), help="folder for the sheets")
    parser.add_argument("--decode", type=decode_count, default="500", help="images to open, or all")
    parser.add_argument("--workers", type=int, default=2, help="threads that open images")
    parser.add_argument("--columns", type=int, default=8, help="columns of the contact sheet")
    parser.add_argument("--rows", type=int, default=5, help="rows of the contact sheet")
    return run_script(parser, inspect, arguments)


if __name__ == "__main__":
    sys.exit(main())
