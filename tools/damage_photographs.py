"""Damages photographs and writes what was done as answers: a warm start without any MOS.

    python tools/damage_photographs.py --images DIR --names TABLE --output OUT
    python train.py experiment=real_vlm_warm model.path=MODEL dataset.root=OUT

`--names` is any table whose first column, after one line of headings, names files in `--images`; no
other column is read. Without it all JPEG and PNG files of the folder are taken. A folder that is
complete already is left as it is.

Not here: what is drawn and written (`tools/small_vlm/damage.py`).
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.small_vlm.damage import LABELS, Settings, write_set
from vqr1.cli.options import positive
from vqr1.errors import UserError
from vqr1.policy.export import written_aside
from vqr1.progress import progress_bar

SUFFIXES = (".jpg", ".jpeg", ".png")


def names_of(images: Path, table: Path | None) -> list[str]:
    """Files of the photographs, by a table's first column or all of a folder.

    Raises:
        UserError: there are none, or the table cannot be read.
    """
    try:
        if table is None:
            names = sorted(p.name for p in images.iterdir() if p.suffix.lower() in SUFFIXES)
        else:
            with table.open(newline="", encoding="utf-8-sig") as file:
                names = [row[0] for row in list(csv.reader(file))[1:] if row and row[0]]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{table or images}: cannot be read ({error})") from error
    if not names:
        raise UserError(f"{table or images}: names no photographs")
    return names


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Damage photographs, and write how.")
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--names", type=Path, help="table of those to take; default: all")
    parser.add_argument("--output", type=Path, required=True, help="folder of the set")
    parser.add_argument(
        "--count", type=positive, default=Settings.count, help="photographs to take"
    )
    parser.add_argument("--seed", type=int, default=Settings.seed)
    options = parser.parse_args()
    if (options.output / LABELS).is_file():
        print(f"{options.output}: there already")
        return
    try:
        if options.output.exists():
            raise UserError(f"--output={options.output}: there already, and not such a set")
        names = names_of(options.images, options.names)
        settings = Settings(count=options.count, seed=options.seed)
        total = min(len(names), settings.count)
        with (
            written_aside(options.output) as folder,
            progress_bar("damaged photographs", total) as advance,
        ):
            write_set(options.images, names, folder, settings, advance)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(f"{options.output}: {total} images")


if __name__ == "__main__":
    main()
