"""A set's archives into its folder: complete and checked, or not there at all.

Archives are fetched into `.downloads` and unpacked into a folder beside it; that one is checked
with the set's own label files and decoded, and renamed to its name last. A command that was killed
anywhere continues when it is given again: whole files are kept, what was being unpacked is not.

Not here: what is hosted where (`catalogue.py`), and the questions that the command asks
(`vqr1.cli.download`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from vqr1.data.download.catalogue import HubFile, WebFile
from vqr1.data.download.fetch import fetch
from vqr1.data.download.unpack import unpack, unpacked_size
from vqr1.durable import make_folder, place_folder, write_file
from vqr1.errors import DataError
from vqr1.program import command_line, override
from vqr1.progress import new_progress, progress_bar

MEGABYTE = 10**6

RECORD = ".download.json"
"""In an installed folder: where its files came from."""


@dataclass(frozen=True)
class Plan:
    """What is to be installed.

    Attributes:
        name: the configuration's word for the set.
        root: folder of all sets.
        files: what is fetched.
        given: archives and label files that were fetched by hand, in place of `files`.
        mirror: address used in place of the hub's.
        keep: archives stay after they were unpacked.
    """

    name: str
    root: Path
    files: Sequence[HubFile | WebFile] = ()
    given: Sequence[Path] = ()
    mirror: str | None = None
    keep: bool = False

    @property
    def folder(self) -> Path:
        """Where the set is installed."""
        return self.root / self.name

    @property
    def unpacking(self) -> Path:
        """Where archives are unpacked, before the set has its name."""
        return self.root / f".{self.name}.unpacking"

    @property
    def downloads(self) -> Path:
        """Where archives wait."""
        return self.root / ".downloads" / self.name


def install(plan: Plan, image_folders: Sequence[str], check: Callable[[Path], None]) -> Path:
    """Fetch, unpack, check and place a set; one that was installed so is left as it is.

    Args:
        plan: what, from where, to where.
        image_folders: names that a folder of the set's images has, which is not the set's own.
        check: raises where a set's folder is not complete.

    Returns:
        The set's folder.

    Raises:
        DataError: a file cannot be had, is not what it should be, or the set is not complete.
        OSError: the disk does not take it.
    """
    make_folder(plan.root)
    try:
        with FileLock(plan.root / f".{plan.name}.lock", timeout=0):
            if (plan.folder / RECORD).is_file():
                _remove_leftovers(plan)
                return plan.folder
            if plan.folder.exists():
                look = command_line(
                    "data verify", f"dataset={plan.name}", override("dataset.root", plan.folder)
                )
                raise DataError(
                    f"{plan.folder}: there already, and not by this command; look at it with "
                    f"`{look}`, or remove it first"
                )
            return _install(plan, image_folders, check)
    except Timeout as error:
        raise DataError(f"{plan.folder}: another command is installing it; wait for it") from error


def _install(plan: Plan, image_folders: Sequence[str], check: Callable[[Path], None]) -> Path:
    files = list(plan.given) or [_fetched(plan, file) for file in plan.files]
    aside = plan.unpacking
    if aside.exists():
        shutil.rmtree(aside)
    aside.mkdir()
    archives = [file for file in files if not _is_labels(file)]
    _unpack(archives, aside)
    found = _set_folder(aside, image_folders)
    for file in files:
        if _is_labels(file):
            shutil.copyfile(file, found / file.name)
    check(found)
    sources = [file.name for file in files]
    write_file(found / RECORD, json.dumps({"set": plan.name, "files": sources}, indent=1))
    place_folder(found, plan.folder)
    _remove_leftovers(plan)
    return plan.folder


def _remove_leftovers(plan: Plan) -> None:
    """What an installed set no longer needs; a command that was killed may not have come to it."""
    if plan.unpacking.exists():
        shutil.rmtree(plan.unpacking)
    if not plan.keep and not plan.given and plan.downloads.exists():
        shutil.rmtree(plan.downloads)


def _fetched(plan: Plan, file: HubFile | WebFile) -> Path:
    make_folder(plan.downloads)
    total = file.size or round(file.about)
    with new_progress() as progress:
        task = progress.add_task(f"{file.name} (MB)", total=-(-total // MEGABYTE))

        def advance(done: int, of: int | None) -> None:
            size = of or total
            progress.update(task, completed=done // MEGABYTE, total=-(-size // MEGABYTE))

        return fetch(file.remote(plan.mirror), plan.downloads / file.name, advance)


def _is_labels(file: Path) -> bool:
    return file.suffix.lower() in (".csv", ".txt", ".xlsx", ".mat", ".json", ".jsonl")


def _unpack(archives: Sequence[Path], aside: Path) -> None:
    total = sum(unpacked_size(archive) for archive in archives)
    with progress_bar("unpacking (MB)", total // MEGABYTE) as advance:
        written = 0

        def note(count: int) -> None:
            nonlocal written
            before, written = written // MEGABYTE, written + count
            advance(written // MEGABYTE - before)

        for archive in archives:
            unpack(archive, aside, note)


def _set_folder(aside: Path, image_folders: Sequence[str]) -> Path:
    """The set's own folder: archives wrap it in one or several."""
    images = {name.lower() for name in image_folders}
    folder = aside
    while True:
        entries = [path for path in folder.iterdir() if path.name != "__MACOSX"]
        if len(entries) != 1 or not entries[0].is_dir() or entries[0].name.lower() in images:
            return folder
        folder = entries[0]
