"""What a look at a data set shows: whether it is complete and its labels point the right way.

Counts, the score histogram, the split table, missing or undecodable images, and a contact sheet
from the worst to the best image (PNG). Some images, drawn from the whole set, are opened fully.
With `dataset.max_images` the split table is that of the subsets which training and evaluation take.

Not here: the command's options (`vqr1.cli.data`), the sheet's layout (`contact_sheet.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL.PngImagePlugin import PngInfo
from rich.console import Console
from rich.table import Table

from vqr1.config import DatasetConfig
from vqr1.counted import counted
from vqr1.data.contact_sheet import Tile, contact_sheet, spaced_positions
from vqr1.data.images import check_ratio, load_image
from vqr1.data.labelled_set import LabelledSet, open_dataset
from vqr1.data.labels import label_format
from vqr1.data.split_duplicates import pairs_between_contents
from vqr1.data.splits import SPLITS, hash_order
from vqr1.data.unlabelled import unlabelled_images
from vqr1.durable import replacing
from vqr1.errors import ConfigError, DataError
from vqr1.iqa.preferences import StatedPairs, count_triples, groups_of
from vqr1.outputs import check_file, check_records, make_folders, own_png, png_metadata
from vqr1.progress import progress_bar

SHOWN = 10
MANY = 200
"""Images from which a progress bar is worth its line."""
BINS = 12
BAR_WIDTH = 40


@dataclass(frozen=True)
class Extent:
    """How much of a set is looked at, and where its sheet goes.

    Attributes:
        out: folder of the contact sheet.
        decode: images to open; None is all of them.
        workers: threads that open images.
        columns: of the contact sheet.
        rows: of the contact sheet.
    """

    out: Path
    decode: int | None
    workers: int
    columns: int
    rows: int


def undecodable(path: Path) -> str | None:
    """Why a model cannot be shown an image file, or None if it can."""
    try:
        image = load_image(path)
    except DataError as error:
        return str(error)
    try:
        check_ratio(*image.size)
    except DataError as error:
        return f"{path}: {error}"
    return None


def decode_problems(paths: Sequence[Path], workers: int) -> list[str]:
    """Decode images; the problems met. With a progress bar, where there are many."""
    problems = []
    shown = len(paths) >= MANY
    # Decoders release the interpreter lock.
    with (
        ThreadPoolExecutor(workers) as pool,
        progress_bar("decoding", len(paths), shown=shown) as advance,
    ):
        for problem in pool.map(undecodable, paths):
            advance(1)
            if problem is not None:
                problems.append(problem)
    return problems


def repeated_files(paths: Sequence[Path]) -> list[str]:
    """Images whose file holds the same bytes as an earlier one's, under another name."""
    first: dict[bytes, Path] = {}
    repeated = []
    for path in paths:
        try:
            with path.open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").digest()
        except OSError:
            continue  # reported as undecodable
        earlier = first.setdefault(digest, path)
        if earlier != path:
            repeated.append(f"{path}: the same bytes as {earlier.name}")
    return repeated


def histogram_lines(scores: Sequence[float] | np.ndarray) -> list[str]:
    """Text bars of a score histogram, lowest score first."""
    counts, edges = np.histogram(np.asarray(scores), bins=BINS)
    scale = BAR_WIDTH / max(counts.max(), 1)
    return [
        f"{low:10.3f} to {high:9.3f} {'#' * round(count * scale):<{BAR_WIDTH}} {count}"
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]


def cycle_words(pairs: StatedPairs) -> str:
    """How consistent the statements are, and whether they connect all images of pairs."""
    triples, groups = count_triples(pairs), int(groups_of(pairs)[1].max(initial=0)) + 1
    found = triples.reason or f"{triples.cyclic} of {triples.complete} triples are cycles"
    return f"{found}; {groups} group{'s' * (groups != 1)} of connected images"


def sheet_of(labelled: LabelledSet, columns: int, rows: int) -> list[Tile]:
    """Tiles from the worst to the best image, evenly spaced in rank."""
    # Images of equal MOS in drawn order: table order may be that of one distortion's levels.
    drawn = hash_order(labelled.table["label_name"].tolist(), labelled.config.split.seed)
    ranked = labelled.table.set_index("label_name").loc[drawn].sort_values("mos", kind="stable")
    tiles = []
    for position in spaced_positions(len(ranked), columns * rows):
        row = ranked.iloc[position]
        try:
            image = load_image(labelled.image_root / row["own_images"][-1])
        except DataError:
            image = None
        tiles.append(Tile(image, f"{row['mos']:.3f}", row["image"]))
    return tiles


def split_table(labelled: LabelledSet) -> Table:
    """Images, references, distortions and MOS of each split, or of its subset (`max_images`)."""
    limit = labelled.config.max_images
    title = "splits" if limit is None else f"splits, subsets of at most {limit} images"
    table = Table(title=title, title_justify="left")
    headings = ("split", "images", "references", "distortions", "mean MOS", "lowest", "highest")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "split" else "right")
    in_none = labelled.table[labelled.table["split"].isna()]
    for name, rows in [
        *((split, labelled.rows(split)) for split in SPLITS),
        ("(in none)", in_none),
    ]:
        if len(rows):
            counts = [rows[column].nunique() for column in ("reference", "distortion")]
            scores = (f"{value:.3f}" for value in (rows.mos.mean(), rows.mos.min(), rows.mos.max()))
            table.add_row(name, str(len(rows)), *(str(n) if n else "-" for n in counts), *scores)
    return table


def report(extent: Extent, name: str, key: str, config: DatasetConfig) -> None:
    """Print one set's report and write its contact sheet.

    Args:
        extent: how much is looked at.
        name: of the set.
        key: dotted key of its configuration, for messages.
        config: the set's.

    Raises:
        UserError: labels or folders are not as they should be, or the sheet would replace a file.
    """
    # Names and paths are printed as they are: [x] is no markup, :x: is no emoji.
    console = Console(markup=False, emoji=False)
    out = extent.out / f"{name}.png"
    check_records(extent.out, None, "--out")
    if extent.out.exists() and not extent.out.is_dir():
        raise ConfigError([f"--out={extent.out}: this is a file; name a folder for the sheets"])
    check_file(out, "--out", own_png("inspect_dataset"))
    labelled = open_dataset(config, key, name, listing=True)
    _print_labels(console, name, key, labelled)
    _print_images(console, extent, labelled)
    make_folders(**{"--out": str(extent.out)})
    total = len(labelled.table)
    title = f"{labelled.title}: worst (top left) to best (bottom right), {counted(total, 'image')}"
    tiles = sheet_of(labelled, extent.columns, extent.rows)
    known = PngInfo()
    for word, text in png_metadata("inspect_dataset").items():
        known.add_text(word, text)
    with replacing(out) as aside:
        contact_sheet(title, tiles, extent.columns).save(aside, format="PNG", pnginfo=known)
    console.print(f"contact sheet: {out}", soft_wrap=True)


def _print_labels(console: Console, name: str, key: str, labelled: LabelledSet) -> None:
    """What the label files state."""
    config = labelled.config
    declared = label_format(config.name, key)
    console.rule(f"{name} ({labelled.title})")
    expected = f" of {declared.images} in the complete set" if declared.images else ""
    console.print(
        f"{counted(len(labelled.table), 'image')}{expected}, in {labelled.image_root}",
        soft_wrap=True,
    )
    further = unlabelled_images(labelled)
    if further:
        shown = ", ".join(further[:SHOWN]) + (", ..." if len(further) > SHOWN else "")
        console.print(
            f"{counted(len(further), 'further image file')} there without a label ({shown})",
            soft_wrap=True, highlight=False,
        )  # fmt: skip
    console.print(f"label form: {labelled.form}", soft_wrap=True, highlight=False)
    published = declared.published_direction
    turned = config.lower_is_better or published == "lower"
    if declared.scored:
        console.print(
            f"published scores: {'LOWER' if turned else 'higher'} is better"
            + (", turned here so that higher is better" if turned else "")
        )
    else:
        console.print("published scores: none; those below are fitted to the pairs of each split")
    if labelled.pairs is not None:
        console.print(f"pairs: {labelled.pairs}; {cycle_words(labelled.pairs.stated)}")
    for line in histogram_lines(labelled.table["mos"].to_numpy()):
        console.print(line, highlight=False)
    console.print(split_table(labelled))


def _print_images(console: Console, extent: Extent, labelled: LabelledSet) -> None:
    """What is wrong with the files."""
    _print_problems(console, "missing, empty or a folder", labelled.bad_images)
    total = len(labelled.table)
    count = total if extent.decode is None else min(extent.decode, total)
    rows = labelled.sample(count).index.to_numpy()
    paths = labelled.shown_files(map(int, rows))
    problems = decode_problems(paths, extent.workers)
    _print_problems(console, f"undecodable or too narrow among {count} opened", problems)
    _print_problems(console, f"a copy of another file among {count} opened", repeated_files(paths))
    if labelled.config.split.near_duplicates != "ignore":
        pairs = pairs_between_contents(labelled, rows)
        _print_problems(console, f"near-identical among {count} opened", pairs, "image pair")


def _print_problems(
    console: Console, kind: str, problems: Sequence[str], of: str = "image"
) -> None:
    console.print(f"{counted(len(problems), of)} {'is' if len(problems) == 1 else 'are'} {kind}")
    for problem in problems[:SHOWN]:
        console.print(f"  {problem}", highlight=False, soft_wrap=True)
    if len(problems) > SHOWN:
        console.print(f"  and {len(problems) - SHOWN} more")
