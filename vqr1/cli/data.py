"""`vqr1 data inspect|prepare|download|verify|list`: data sets before a training.

    vqr1 data inspect dataset=koniq dataset.root=data/koniq10k
    vqr1 data prepare dataset=kadid dataset.root=data/kadid10k
    vqr1 data prepare --split all --out all.jsonl dataset=kadid+spaq dataset.parts...

Not here: what each prints and writes (`vqr1.data.inspection`, `vqr1.data.preparation`), and the
tasks around downloads (`vqr1.cli.download`).
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vqr1.cli import download
from vqr1.cli.help import keys_if_asked
from vqr1.cli.options import OptionParser, named_parts, positive, run_options
from vqr1.config import DataConfig
from vqr1.errors import UserError
from vqr1.program import name_of
from vqr1.standard_streams import guard_output


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `vqr1 data`; returns the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    guard_output(quiet=True)
    if given[:1] in (["-h"], ["--help"]):
        print(f"usage: {name_of('data')} {'|'.join(TASKS)} ... (each has --help)\n")
        print("  download  fetch a set, check it, and lay it where dataset=SET finds it")
        print("  list      which sets are known, and which are here")
        print("  verify    whether a set is complete and every image decodes")
        print("  inspect   counts, histogram, splits, damaged images, contact sheet of a set")
        print("  prepare   the published training JSONL from a set's label files")
        return 0
    task = TASKS.get(given[0]) if given else None
    if task is None:
        near = difflib.get_close_matches(given[0], TASKS, n=1) if given else []
        fix = f"did you mean {near[0]}?" if near else f"give one of {', '.join(TASKS)}"
        printed = given[0] if given else "needs a task"
        sys.stderr.write(f"error: {name_of('data')} {printed}: {fix}\n")
        return UserError.exit_code
    return task(given[1:])


def inspect(arguments: Sequence[str]) -> int:
    """`vqr1 data inspect`; returns the exit code."""
    parser = OptionParser(
        "data inspect",
        description="See in ten seconds whether a data set is complete and its labels point the "
        "right way:\ncounts, score histogram, splits, missing or undecodable images, and a contact "
        "sheet\nfrom the worst to the best image (PNG).",
        epilog=keys_if_asked("data", DataConfig, arguments),
    )
    parser.add_argument("--out", type=Path, default=Path("inspected"), help="folder for the sheets")
    parser.add_argument("--decode", type=decode_count, default="500", help="images to open, or all")
    parser.add_argument("--workers", type=positive, default=2, help="threads that open images")
    parser.add_argument("--columns", type=positive, default=8, help="columns of the contact sheet")
    parser.add_argument("--rows", type=positive, default=5, help="rows of the contact sheet")
    return run_options(parser, _inspect, arguments)


def _inspect(options: argparse.Namespace, config: DataConfig) -> None:
    # pandas and what decodes images take a second to import.
    from vqr1.data.inspection import Extent, report

    decode = None if options.decode == "all" else int(options.decode)
    extent = Extent(options.out, decode, options.workers, options.columns, options.rows)
    for name, (key, part) in named_parts(config).items():
        report(extent, name, key, part)


def prepare(arguments: Sequence[str]) -> int:
    """`vqr1 data prepare`; returns the exit code."""
    from vqr1.data.preparation import SPLITS

    parser = OptionParser(
        "data prepare",
        description="Write the published training JSONL.",
        epilog=keys_if_asked("data", DataConfig, arguments),
    )
    parser.add_argument("--split", choices=SPLITS, default="train", help="images to write")
    parser.add_argument(
        "--out", type=Path, help="file to write (default: prepared/NAME_SPLIT.jsonl)"
    )
    return run_options(parser, _prepare, arguments)


def _prepare(options: argparse.Namespace, config: DataConfig) -> None:
    from vqr1.data import preparation

    preparation.prepare(named_parts(config), options.split, options.out)


def decode_count(text: str) -> str:
    """`all` or a number, checked.

    Raises:
        argparse.ArgumentTypeError: neither.
    """
    if text != "all" and not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor 'all'")
    return text


TASKS: dict[str, Callable[[Sequence[str]], int]] = {
    "download": download.download,
    "list": download.list_sets,
    "verify": download.verify,
    "inspect": inspect,
    "prepare": prepare,
}
"""What `vqr1 data` can be asked for."""
