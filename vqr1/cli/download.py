"""`vqr1 data download`, `verify` and `list`: from a set's name to a checked folder.

    vqr1 data download kadid
    vqr1 data download koniq --root data --from koniq10k.tgz
    vqr1 data verify dataset=kadid
    vqr1 data list

Not here: fetching, unpacking and placing (`vqr1.data.download`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vqr1.cli.app import refuse_launcher
from vqr1.cli.compose import USER_ERRORS, user_message
from vqr1.cli.help import keys_if_asked
from vqr1.cli.options import OptionParser, load_data_config, named_parts, positive, run_options
from vqr1.config import DataConfig, DatasetConfig
from vqr1.counted import counted_are
from vqr1.errors import ConfigError, DataError, RunFaultError, UserError
from vqr1.storage_faults import storage_line


def download(arguments: Sequence[str]) -> int:
    """`vqr1 data download`; returns the exit code."""
    parser = OptionParser(
        "data download",
        description="Fetch a data set, check it and lay it into ROOT/SET, where dataset=SET finds "
        "it.\nBroken off anywhere, the same command continues.",
    )
    parser.add_argument("set", help="name of the set, as in dataset=SET")
    parser.add_argument("--root", type=Path, help="folder of all sets (default: $VQR1_DATA, data)")
    parser.add_argument("--yes", action="store_true", help="do not ask before fetching")
    parser.add_argument(
        "--from", dest="given", type=Path, nargs="+", default=[], metavar="FILE",
        help="archives and label files that were fetched by hand",
    )  # fmt: skip
    parser.add_argument("--mirror", metavar="URL", help="address used in place of the hub's")
    parser.add_argument("--keep", action="store_true", help="keep the archives")
    options = parser.parse_args(arguments)
    refuse_launcher(parser.prog)
    try:
        _download(options)
    except (*USER_ERRORS, OSError) as error:
        disk = storage_line(error, options.root or "data")
        if disk is not None:
            sys.stderr.write(f"error: {disk}; the same command continues what was fetched\n")
            return RunFaultError.exit_code
        sys.stderr.write(f"error: {user_message(error).strip()}\n")
        return getattr(error, "exit_code", UserError.exit_code)
    return 0


def _download(options: argparse.Namespace) -> None:
    from vqr1.data.download.catalogue import hosting
    from vqr1.data.download.install import Plan, install
    from vqr1.data.labels import label_format
    from vqr1.data.location import data_folder

    known = hosting(options.set)
    root = options.root or data_folder()
    print(f"{options.set}: owner's page {known.page}; licence: {known.licence}")
    if known.note:
        print(f"note: {known.note}")
    _check_given(options.given)
    if options.mirror is not None and not options.mirror.startswith(("https://", "http://")):
        raise ConfigError([f"--mirror {options.mirror}: must begin with https:// or http://"])
    if not known.files and not options.given:
        raise ConfigError(
            [
                f"{options.set}: cannot be fetched automatically; get it from {known.page} and "
                f"place under {root / options.set}: {', '.join(known.by_hand)}"
            ]
        )
    if not options.given and not options.yes:
        _ask(sum(file.about for file in known.files), root / options.set)
    plan = Plan(options.set, root, known.files, options.given, options.mirror, options.keep)
    folder = install(
        plan,
        label_format(options.set).image_folders,
        lambda folder: _check(options.set, folder),
    )
    print(f"installed: {folder}; use it with dataset={options.set}")


def _check_given(files: Sequence[Path]) -> None:
    missing = [f"--from {file}: no such file" for file in files if not file.is_file()]
    if missing:
        raise ConfigError(missing)


def _ask(size: float, folder: Path) -> None:
    if not sys.stdin.isatty():
        raise ConfigError(
            [f"{size / 1e9:.2f} GB would be fetched into {folder}; confirm with --yes"]
        )
    answer = input(f"fetch {size / 1e9:.2f} GB into {folder}? [y/N] ")
    if answer.strip().lower() not in ("y", "yes"):
        raise ConfigError(["nothing was fetched"])


def _check(name: str, folder: Path) -> None:
    config = load_data_config([f"dataset={name}"])
    (_, (key, part)) = next(iter(named_parts(config).items()))
    _check_set(name, key, replace(part, root=str(folder)), workers=2)


def _check_set(name: str, key: str, config: DatasetConfig, workers: int) -> None:
    """Raise where a set is not complete, every image decoded; print what was found."""
    from vqr1.data.download.completeness import completeness

    found = completeness(name, key, config, workers)
    print(found.line)
    if found.problems:
        shown = "; ".join(found.problems[:5])
        more = f"; and {len(found.problems) - 5} more" if found.problems[5:] else ""
        raise DataError(
            f"{name}: {counted_are(len(found.problems), 'image')} missing or damaged: "
            f"{shown}{more}. Put them there, or leave such images out with {key}.on_bad_image=skip"
        )


def verify(arguments: Sequence[str]) -> int:
    """`vqr1 data verify`; returns the exit code."""
    parser = OptionParser(
        "data verify",
        description="Whether data sets are here, complete, and every image decodes.",
        epilog=keys_if_asked("data", DataConfig, arguments),
    )
    parser.add_argument("--workers", type=positive, default=2, help="threads that open images")
    return run_options(parser, _verify, arguments)


def _verify(options: argparse.Namespace, config: DataConfig) -> None:
    for name, (key, part) in named_parts(config).items():
        _check_set(name, key, part, options.workers)


def list_sets(arguments: Sequence[str]) -> int:
    """`vqr1 data list`; returns the exit code."""
    parser = OptionParser("data list", "Which sets are known, and which are here.")
    parser.add_argument("--root", type=Path, help="folder of all sets (default: $VQR1_DATA, data)")
    options = parser.parse_args(arguments)
    from vqr1.data.download.completeness import overview
    from vqr1.data.location import data_folder

    overview(options.root or data_folder())
    return 0
