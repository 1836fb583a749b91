"""Write the published training JSONL from a set's official label files.

    python scripts/prepare.py dataset=kadid dataset.root=data/kadid10k
    python scripts/prepare.py --part all --out all.jsonl dataset=kadid+spaq dataset.parts...

One line an image, in the label file's order, the form of the VisualQuality-R1 release: ids from 1
over the whole file, MOS scaled min-max to [1, 5] over each whole set. Several sets follow each
other in one file under their own `dataset_name`. With the released split (`dataset=kadid`), the
training part equals `RL-KADID-10K_train_scoring.jsonl` byte for byte.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vqr1.cli.data import named_parts, run_script
from vqr1.config import DataConfig
from vqr1.data.jsonl import JsonlLine, jsonl_text, write_jsonl
from vqr1.data.labelled_set import LabelledSet, open_dataset
from vqr1.errors import ConfigError, DataError
from vqr1.outputs import check_file

PARTS = ("train", "val", "test", "all")


def jsonl_lines(labelled: LabelledSet, part: str) -> list[JsonlLine]:
    """One set's lines; `part` is one of `PARTS`."""
    rows = labelled.table if part == "all" else labelled.part(part)  # type: ignore[arg-type]
    return [
        JsonlLine(labelled.title, image, score)
        for image, score in zip(rows["image"], rows["mos_scaled"].tolist(), strict=True)
    ]


def prepare(options: argparse.Namespace, config: DataConfig) -> None:
    """Write the file and say what is in it."""
    lines: list[JsonlLine] = []
    names: list[str] = []
    for name, (key, part) in named_parts(config).items():
        labelled = open_dataset(part, key, name)
        found = jsonl_lines(labelled, options.part)
        if not found:
            raise DataError(f"{key}.split: {name} has no {options.part} images; try --part all")
        if labelled.title in names:
            raise DataError(
                f"{key}: another set is called {labelled.title} too; one file cannot tell them "
                "apart, so write one file each"
            )
        names.append(labelled.title)
        lines += found
        print(f"{name}: {len(found)} of {len(labelled.table)} images as {labelled.title!r}")
    out = options.out or Path("prepared") / f"{'+'.join(named_parts(config))}_{options.part}.jsonl"
    content = "".join(jsonl_text(lines)).encode()
    # A released file has the same form: only the same content shows that nothing is lost.
    check_file(out, "--out", lambda path: path.read_bytes() == content)
    try:
        count = write_jsonl(out, lines)
    except OSError as error:
        raise ConfigError([f"--out={out}: cannot be written ({error.strerror})"]) from error
    print(f"{count} lines in {out}")


def main(arguments: list[str] | None = None) -> int:
    """Run the script and return its exit code."""
    parser = argparse.ArgumentParser(description="Write the published training JSONL.")
    parser.add_argument("--part", choices=PARTS, default="train", help="images to write")
    parser.add_argument(
        "--out", type=Path, help="file to write (default: prepared/NAME_PART.jsonl)"
    )
    return run_script(parser, prepare, arguments)


if __name__ == "__main__":
    sys.exit(main())
