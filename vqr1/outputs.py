"""What a command may write to: nothing that it did not write itself is ever replaced.

A run directory, a sweep and a summary are known by their record (`RECORDS`), so folders of earlier
versions are known too. A command takes a folder that is new, empty, or of its own kind; whether the
settings are the same too is compared where the record is read. A file is replaced only where its
content shows that the same command wrote it: a PNG by its metadata, JSON by `WRITTEN_BY`, tables by
their first line (`vqr1.inference.own_files`).

Not here: continuing what is there, and refusing a second process (`vqr1.locks`).
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vqr1.durable import write_file
from vqr1.errors import ConfigError
from vqr1.locks import is_held

TRAINING = "a training"
SWEEP = "a sweep"
EVALUATION = "an evaluation"
CHAIN = "a chain of trainings"
SUMMARY = "the summary of a sweep"

RECORDS = {
    "run.json": TRAINING,
    "job.json": TRAINING,
    "sweep.json": SWEEP,
    "chain.json": CHAIN,
    "evaluation.json": EVALUATION,
    "sweep_summary.json": SUMMARY,
}
"""Files that show what wrote a folder, or for what it was made (`job.json`)."""
_EARLIER_EVALUATION = ("metrics.json", "report.md", "summary.json")
"""Evaluations of prediction files and comparisons had no record of their own."""

_LOCK = "run.lock"
_NOBODYS = {_LOCK, "run.json.part", "locks", "tracking", "output.txt"}
"""What a command that was refused, and its launcher, leave in a folder beside hidden files, logs
and folders without anything else."""
_BEGUN = {".hydra", _LOCK, "locks", "tracking", "evaluation.json"}
"""What every command leaves in its folder before it does anything, and nothing of anybody else."""
_PARTIAL = "predictions.partial-"
_HEADER = 4096
"""Bytes that a header does not reach."""
_LOG_SUFFIXES = (".log", ".out", ".err")
_SHOWN = 3

WRITTEN_BY = "written_by"
"""Key of a JSON report that names the command which wrote it."""
_PNG_KEY = "Software"
_NOT_OWN = (
    "the file exists, and this command did not write it; choose another file, or remove it first"
)


def kinds_of(folder: Path) -> set[str]:
    """What wrote into a folder, by the records in it; empty where nothing is known."""
    found = {kind for name, kind in RECORDS.items() if (folder / name).is_file()}
    if SWEEP in found:
        found.discard(SUMMARY)  # its own
    if not found and all((folder / name).is_file() for name in _EARLIER_EVALUATION):
        return {"an evaluation by an earlier version"}
    return found


def make_folders(**folders: str | None) -> None:
    """Make folders that may be there already.

    Args:
        folders: by configuration key, dots written as `__`; None is no folder.

    Raises:
        ConfigError: every folder that cannot be made.
    """
    problems = []
    for name, folder in folders.items():
        if folder is None:
            continue
        try:
            Path(folder).expanduser().mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problems.append(
                f"{name.replace('__', '.')}={folder}: the folder cannot be made "
                f"({error.strerror}); choose another place"
            )
    if problems:
        raise ConfigError(problems)


def check_folder(folder: Path, kind: str, key: str) -> None:
    """Check that a command may write into a folder.

    Args:
        folder: the folder; need not exist.
        kind: what the command writes, one of the names above.
        key: configuration key or option that names the folder.

    Raises:
        ConfigError: it holds something else, or cannot be listed.
    """
    try:
        strange = [path.name for path in sorted(folder.iterdir()) if not _is_nobodys(path)]
    except (FileNotFoundError, NotADirectoryError):
        return  # the second is reported where the folder is made
    except OSError as error:
        raise ConfigError(
            [f"{key}={folder}: the folder cannot be listed ({error.strerror}); choose another"]
        ) from error
    check_records(folder, kind, key)
    if strange and not kinds_of(folder):
        more = ", ..." if len(strange) > _SHOWN else ""
        raise ConfigError(
            [
                f"{key}={folder}: this folder holds {', '.join(strange[:_SHOWN])}{more}, which "
                f"{kind} did not write; choose an empty folder or a new one"
            ]
        )


def check_records(folder: Path, kind: str | None, key: str) -> None:
    """Check that nothing but a command of one kind has written into a folder, by its records.

    Args:
        folder: the folder; need not exist.
        kind: the kind; None for no kind at all.
        key: configuration key or option that names the folder.

    Raises:
        ConfigError: it holds something else.
    """
    others = kinds_of(folder) - {kind}
    if others:
        raise ConfigError(
            [
                f"{key}={folder}: this folder holds {' and '.join(sorted(others))}; choose an "
                "empty folder or a new one"
            ]
        )


def check_file(path: Path, key: str, is_own: Callable[[Path], bool]) -> None:
    """Check that a command may write a file, replacing the one that is there.

    Args:
        path: the file; need not exist.
        key: configuration key or option that names it.
        is_own: whether the command wrote the file that is there.

    Raises:
        ConfigError: it did not.
    """
    if not is_replaceable(path, is_own):
        raise ConfigError([not_own(path, key)])


def is_replaceable(path: Path, is_own: Callable[[Path], bool]) -> bool:
    """Whether nothing of somebody else would be lost.

    What is no regular file, such as a pipe or a terminal, holds nothing that could be.
    """
    return not path.is_file() or not path.stat().st_size or is_own(path)


def not_own(path: Path, key: str) -> str:
    """The message about a file that a command did not write."""
    return f"{key}={path}: {_NOT_OWN}"


def target(is_own: Callable[[Path], bool]) -> Callable[[str], Path]:
    """Type of an argparse option that names a file which a script writes.

    Args:
        is_own: whether the script wrote the file that is there.
    """

    def path_of(text: str) -> Path:
        path = Path(text)
        if not is_replaceable(path, is_own):
            raise argparse.ArgumentTypeError(f"{path}: {_NOT_OWN}")
        return path

    return path_of


def png_metadata(command: str) -> dict[str, str]:
    """Metadata of a PNG by which the command that wrote it is known."""
    return {_PNG_KEY: f"vqr1 {command}"}


def own_png(command: str) -> Callable[[Path], bool]:
    """Whether a file is a PNG that a command wrote with `png_metadata`."""

    def is_own(path: Path) -> bool:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(path) as image:
                return bool(image.info.get(_PNG_KEY) == png_metadata(command)[_PNG_KEY])
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
            return False

    return is_own


def own_json(command: str) -> Callable[[Path], bool]:
    """Whether a file is a report that a command wrote with `write_json`."""
    return lambda path: _read_object(path).get(WRITTEN_BY) == command


def write_json(path: Path, content: Mapping[str, Any], command: str) -> None:
    """Write a JSON report by which the command that wrote it is known."""
    text = json.dumps({WRITTEN_BY: command, **content}, indent=1, default=str)
    write_file(path, text + "\n")


def check_summary_folder(folder: Path, key: str, command: str, sweep: str) -> None:
    """Check that a sweep's summary may be written into a folder: its own, empty, or a new one.

    Args:
        folder: the folder; need not exist.
        key: option that names it.
        command: command line of the sweep.
        sweep: what identifies the sweep.

    Raises:
        ConfigError: it holds something else, or the summary of another sweep.
    """
    check_folder(folder, SUMMARY, key)
    before = _read_object(folder / "sweep_summary.json")
    if before and (before.get("command"), before.get("sweep", sweep)) != (command, sweep):
        raise ConfigError(
            [
                f"{key}={folder}: this folder holds the summary of another sweep "
                f"({before.get('command')}); choose an empty folder or a new one"
            ]
        )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def named_folders(command: str, arguments: Sequence[str]) -> Iterator[Path]:
    """Folders that a command line names for its run, then where a command makes its own.

    Args:
        command: name of its configuration.
        arguments: the command line.
    """
    for argument in arguments:
        key, _, value = argument.partition("=")
        path = Path(value.strip("'\""))
        if key.lstrip("+") == "run_dir":
            yield path.expanduser()
        elif key.lstrip("+") in ("hydra.run.dir", "hydra.sweep.dir"):
            yield path  # as Hydra takes it
    yield from (Path(place, command, "DATE") for place in ("outputs", "multirun"))


class NewFolders:
    """Which folders of a command were there before it; those that it made in vain are removed.

    Args:
        named: folders that the command line names.
    """

    def __init__(self, named: Iterable[Path]) -> None:
        here = Path.cwd()
        self._before = {here, *here.parents}
        for folder in named:
            whole = folder.absolute()
            self._before |= {place for place in (whole, *whole.parents) if place.exists()}

    def remove_unused(self, folders: Iterable[Path]) -> None:
        """Remove folders, and those above them, that are new and hold nothing of the command's.

        Folders are named to the second: one that another process works in is not this command's.
        """
        for folder in folders:
            for place in (folder.absolute(), *folder.absolute().parents):
                if place in self._before or not _remove_if_unused(place):
                    break


def remove_unused(folder: Path) -> None:
    """Remove a folder that a command has made in vain, and empty ones above it in this folder.

    Args:
        folder: the folder; one that holds anything but what every command begins with stays.
    """
    here = Path.cwd()
    if not _remove_if_unused(folder):
        return
    for place in folder.absolute().parents:
        if here not in place.parents:
            break
        with suppress(OSError):
            place.rmdir()


def _remove_if_unused(folder: Path) -> bool:
    try:
        if all(map(_is_begun, folder.iterdir())) and not any(map(is_held, folder.rglob(_LOCK))):
            shutil.rmtree(folder)
            return True
    except OSError:
        pass  # it stays, as it did before; the command's own error is what matters
    return not folder.exists()


def _is_begun(path: Path) -> bool:
    """Whether a file or folder holds nothing yet: predictions have no row below their header."""
    if path.name in _BEGUN:
        return True
    partial = path.name.startswith(_PARTIAL) and path.is_file()
    return partial and path.stat().st_size < _HEADER and path.read_bytes().count(b"\n") <= 1


def _is_nobodys(path: Path) -> bool:
    name = path.name
    if name in _NOBODYS or name.startswith(".") or name.endswith(_LOG_SUFFIXES):
        return True
    return path.is_dir() and not path.is_symlink() and all(map(_is_nobodys, path.iterdir()))
