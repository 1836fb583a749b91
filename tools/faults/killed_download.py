"""A download that is killed at random moments and given again, against a server on loopback."""

from __future__ import annotations

import hashlib
import io
import random
import shutil
import signal
import time
import zipfile
from dataclasses import dataclass, replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tools.faults import forked
from tools.faults.file_server import FileServer, serving
from tools.faults.small_set import write_kadid

# Imported here so that every process forked from this one has them.
from vqr1.cli.data import main
from vqr1.data.download import catalogue
from vqr1.data.download.install import RECORD

PATH = "/datasets/VQA-CityU/IQA_data/resolve/main/kadid10k.zip"
"""Where the catalogue looks for the archive of KADID-10k on a mirror."""


@dataclass(frozen=True)
class KilledDownload:
    """What became of it.

    Attributes:
        kills: processes that were killed before they had finished.
        finished: processes that ended by themselves before they were to be killed.
        code: exit code of the last one, which nobody kills.
        complete: the folder holds every file with its bytes, and nothing else is left.
    """

    kills: int
    finished: int
    code: int | None
    complete: bool


def zipped(folder: Path, skip: tuple[str, ...] = ()) -> bytes:
    """A folder as the archive of KADID-10k, without the files of these names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.name not in skip:
                archive.write(path, f"kadid10k/{path.relative_to(folder)}")
    return buffer.getvalue()


def offered(content: bytes) -> catalogue.Hosting:
    """The catalogue's entry of KADID-10k for another archive."""
    known = catalogue.HOSTED["kadid"]
    digest = hashlib.sha256(content).hexdigest()
    return replace(known, files=(replace(known.files[0], size=len(content), sha256=digest),))


def kill_downloads(folder: Path, kills: int, seed: int = 0) -> KilledDownload:
    """Download a small set, killed again and again, and once to the end.

    Args:
        folder: an empty working folder.
        kills: how often.
        seed: of the moments.
    """
    forked.preload(__name__)
    rng = random.Random(seed)
    small = write_kadid(folder / "made", references=8, levels=4)
    content = zipped(small)
    root = folder / "data"
    with serving({PATH: content}) as server:
        server.faults.wait = 0.1
        begin = time.monotonic()
        _start(folder / "whole", server, content).join(120)
        whole = time.monotonic() - begin
        killed = finished = 0
        while killed < kills:
            process = _start(root, server, content)
            process.join(rng.uniform(0.0, whole))
            if process.is_alive():
                process.kill()
            process.join()
            if process.exitcode == -signal.SIGKILL:
                killed += 1
            elif process.exitcode == 0:
                finished += 1
                shutil.rmtree(root / "kadid")
        last = _start(root, server, content)
        last.join(120)
    return KilledDownload(killed, finished, last.exitcode, _complete(root, small))


def _start(root: Path, server: FileServer, content: bytes) -> ForkServerProcess:
    return forked.start(_download, str(root), server.url(""), offered(content))


def _download(root: str, mirror: str, hosting: catalogue.Hosting) -> None:
    """The command, in a process of its own; its output is beside the folder of all sets."""
    forked.enter(str(Path(root).parent))
    catalogue.HOSTED["kadid"] = hosting
    raise SystemExit(main(["download", "kadid", "--root", root, "--mirror", mirror, "--yes"]))


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _complete(root: Path, made: Path) -> bool:
    found = _files(root / "kadid") if (root / "kadid").is_dir() else {}
    found.pop(RECORD, None)
    others = {path.name for path in root.iterdir()} - {"kadid", ".kadid.lock"}
    return found == _files(made) and others <= {".downloads"}
