"""Plant near-identical copies among images, find them, and report recall, false pairs and time.

    python scripts/bench_near_duplicates.py data/biq2021/Images --images 5000 --planted 500

A quarter each is re-encoded (JPEG, quality 30 to 70), resized (0.4 to 1.3), cropped by 2 % on
all sides, and cropped to 98 % at a random place. A found pair is false where a copy is paired with
an image that is neither its source nor near-identical to the source itself (within twice
`MAX_DISTANCE`). Pairs among the images as they came are counted apart; `--sheet FILE` shows them,
since whether they are of one scene has to be looked at.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from vqr1.data.images import IMAGE_SUFFIXES, load_image
from vqr1.data.near_duplicates import MAX_DISTANCE, image_hashes, near_pairs

KINDS = ("re-encoded", "resized", "cropped on all sides", "cropped to one place")


def plant(source: Path, kind: int, out: Path, draw: random.Random) -> None:
    """Write one copy."""
    image = load_image(source)
    width, height = image.size
    if kind == 0:
        image.save(out, "JPEG", quality=draw.choice((30, 50, 70)))
    elif kind == 1:
        factor = draw.uniform(0.4, 1.3)
        image.resize((int(width * factor), int(height * factor))).save(out, "JPEG", quality=95)
    else:
        share = 0.96 if kind == 2 else 0.98
        left, top = (0.02, 0.02) if kind == 2 else (draw.uniform(0, 0.02), draw.uniform(0, 0.02))
        box = (left * width, top * height, (left + share) * width, (top + share) * height)
        image.crop(tuple(round(edge) for edge in box)).save(out, "JPEG", quality=90)  # type: ignore[arg-type]


def sheet(files: list[Path], pairs: np.ndarray, out: Path, columns: int = 8) -> None:
    """Write pairs side by side, the most distant first."""
    ordered = pairs[np.argsort(-pairs[:, 2], kind="stable")]
    rows = -(-len(ordered) // columns)
    shown = Image.new("RGB", (columns * 164, max(rows, 1) * 82))
    for number, (i, j, _) in enumerate(ordered):
        for side, position in enumerate((i, j)):
            tile = load_image(files[position]).resize((80, 80))
            shown.paste(tile, (number % columns * 164 + side * 80, number // columns * 82))
    shown.save(out)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--planted", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path, help="PNG of the pairs among the images themselves")
    options = parser.parse_args()
    files = sorted(f for f in options.folder.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES)
    files = files[: options.images]
    draw = random.Random(options.seed)
    sources = draw.sample(range(len(files)), options.planted)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VQR1_CACHE"] = f"{folder}/cache"
        copies = [Path(folder) / f"{number}.jpg" for number in range(len(sources))]
        for number, (source, copy) in enumerate(zip(sources, copies, strict=True)):
            plant(files[source], number % len(KINDS), copy, draw)
        started = time.perf_counter()
        hashes = image_hashes([*files, *copies])
        hashed = time.perf_counter()
        pairs = near_pairs(hashes)
        ended = time.perf_counter()
        image_hashes([*files, *copies])
        again = time.perf_counter() - ended
    count = len(files)
    found = {(i, j) for i, j, _ in pairs.tolist()}
    wide = {(i, j) for i, j, _ in near_pairs(hashes[:count], limit=2 * MAX_DISTANCE).tolist()}
    source_of = {count + number: source for number, source in enumerate(sources)}

    def one_scene(i: int, j: int) -> bool:
        first, second = sorted((source_of.get(i, i), source_of.get(j, j)))
        return first == second or (first, second) in wide

    hits = [(source, count + number) in found for number, source in enumerate(sources)]
    false = [pair for pair in found if pair[1] >= count and not one_scene(*pair)]
    natural = pairs[pairs[:, 1] < count]
    print(f"{count} images, {len(copies)} planted: recall {np.mean(hits):.4f}")
    for kind, name in enumerate(KINDS):
        print(f"  {name}: {np.mean(hits[kind :: len(KINDS)]):.4f}")
    print(f"false pairs of planted copies: {len(false)}")
    print(f"pairs among the images themselves: {len(natural)}")
    print(f"hashes {hashed - started:.1f} s, search {ended - hashed:.1f} s, cached {again:.1f} s")
    if options.sheet:
        sheet(files, natural, options.sheet)


if __name__ == "__main__":
    main()
