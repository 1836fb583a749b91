"""Whether a set's folder is complete: by its own label file, and by decoding every image.

Not here: what an image needs to be decodable (`vqr1.data.images`).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vqr1.config import DatasetConfig
from vqr1.data.download.catalogue import HOSTED
from vqr1.data.download.install import RECORD
from vqr1.data.inspection import undecodable
from vqr1.data.labelled_set import open_dataset
from vqr1.data.labels import label_format
from vqr1.progress import progress_bar


@dataclass(frozen=True)
class Completeness:
    """What was found of a set.

    Attributes:
        line: one line for the user.
        problems: images that are missing or do not decode, each with its problem.
    """

    line: str
    problems: tuple[str, ...]


def completeness(name: str, key: str, config: DatasetConfig, workers: int) -> Completeness:
    """Open a set and decode all of its images.

    Args:
        name: of the set, in messages.
        key: dotted key of its configuration.
        config: the set's.
        workers: threads that decode.

    Raises:
        UserError: label files are not there or not as they should be.
    """
    labelled = open_dataset(config, key, name, listing=True)
    paths = labelled.shown_files(labelled.table.index)
    problems = list(labelled.bad_images)
    # Decoders release the interpreter lock.
    with ThreadPoolExecutor(workers) as pool, progress_bar("decoding", len(paths)) as advance:
        for problem in pool.map(undecodable, paths):
            advance(1)
            if problem is not None:
                problems.append(problem)
    complete = label_format(config.name, key).images
    here = len(labelled.table)
    labels = here + len(labelled.bad_images)
    of = f", {complete} in the complete set" if complete else ""
    state = "complete" if not problems else "NOT complete"
    if complete and labels != complete:
        state += ", and another version"
    line = f"{name}: {here} of {labels} labelled images{of}; {state} ({labelled.image_root})"
    return Completeness(line, tuple(problems))


def overview(root: Path) -> None:
    """Print every known set, and whether its folder is under the root."""
    table = Table(title=f"data sets under {root}", title_justify="left")
    for heading in ("set", "here", "size", "owner's page"):
        table.add_column(heading, overflow="fold")
    for name, known in sorted(HOSTED.items()):
        folder = root / name
        here = "-"
        if folder.is_dir():
            here = "installed" if (folder / RECORD).is_file() else "placed by hand"
        size = f"{sum(file.about for file in known.files) / 1e9:.2f} GB" if known.files else "-"
        table.add_row(name, here, size, known.page)
    # The root is printed as it is: [x] is no markup, :x: is no emoji.
    Console(markup=False, emoji=False).print(table)
