"""Faults of the disk: full, limited, read-only, and files that are not what was written."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.faults.report import FaultResult, last_line
from tools.faults.runs import Workshop, compare, read_result
from vqr1.errors import EXIT_INTERRUPTED, RunFaultError

MOUNT_REFUSED = "this machine does not let us mount a file system"


def stopped_run(workshop: Workshop, name: str) -> Path:
    """A run that was stopped after step 5, with the states after steps 4 and 5.

    It is trained once; every name gets a copy.
    """
    origin = workshop.folder / "stopped"
    if not origin.exists():
        training = workshop.start("stopped", "run_dir=run")
        training.wait_until("rollout", 5)
        training.signal(signal.SIGUSR1)
        if training.wait() != EXIT_INTERRUPTED:
            raise RuntimeError(training.output)
    copy = workshop.folder / name
    shutil.copytree(origin, copy)
    return copy


def damaged(workshop: Workshop, name: str, damage: Callable[[Path], None]) -> FaultResult:
    """Damage the newest state of a stopped run: the one before it is used, and is stated to be."""
    folder = stopped_run(workshop, name.replace(" ", "_"))
    newest = max((folder / "run" / "checkpoints").glob("step_*.ckpt"))
    damage(newest)
    training = workshop.resume(folder.name)
    code = training.wait()
    output = training.output
    if code != 0 or newest.name not in output or "resumed after step 4" not in output:
        return FaultResult(name, printed=last_line(output))
    printed = next(line for line in output.splitlines() if "damaged checkpoint" in line)
    return FaultResult.of(name, code, compare(read_result(folder), workshop.reference), printed)


def truncate(path: Path) -> None:
    """Cut a file in half."""
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def flip_bit(path: Path) -> None:
    """Turn one bit in the middle of a file."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 8]))


def file_limit(workshop: Workshop) -> FaultResult:
    """The system refuses whole states, but smaller files not: the run continues and reports it."""
    fault = "checkpoint refused (file size limit)"
    training = workshop.start("file_limit", "run_dir=run", tweak="file_limit")
    training.wait_until("test", 2)
    training.signal(signal.SIGKILL)
    training.wait()
    printed = next((x for x in training.output.splitlines() if "checkpoint not written" in x), "")
    if not printed:
        return FaultResult(fault, printed=last_line(training.output))
    resumed = workshop.resume("file_limit")
    code = resumed.wait()
    done = compare(read_result(resumed.folder), workshop.reference) if code == 0 else None
    if "resumed after step 0" not in resumed.output:
        return FaultResult(fault, printed="the state before the first refused one was not found")
    return FaultResult.of(fault, code, done, printed)


def full_disk(workshop: Workshop) -> FaultResult:
    """A run directory on a disk that fills up: it stops with one line, and continues with room."""
    fault = "full disk"
    folder = workshop.folder / "full_disk"
    with small_disk(folder, "28m") as disk:
        if disk is None:
            return FaultResult(fault, skipped=MOUNT_REFUSED)
        stop = ("run_dir=run", "callbacks.checkpoint.on_failed_write=stop")
        training = workshop.start("full_disk", *stop)
        code = training.wait()
        printed = last_line(training.output)
        if code != RunFaultError.exit_code:
            return FaultResult(fault, printed=f"exit code {code}: {printed}")
        subprocess.run(["mount", "-o", "remount,size=400m", str(disk)], check=True)  # nosec B607 - system tools
        resumed = workshop.resume("full_disk")
        code = resumed.wait()
        done = compare(read_result(resumed.folder), workshop.reference) if code == 0 else None
        return FaultResult.of(fault, code, done, printed)


def read_only(workshop: Workshop) -> FaultResult:
    """A run directory that cannot be written: one line at once; later it starts there."""
    fault = "read-only output"
    folder = workshop.folder / "read_only"
    with small_disk(folder, "400m") as disk:
        if disk is None:
            return FaultResult(fault, skipped=MOUNT_REFUSED)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)  # nosec B607 - system tools
        training = workshop.start("read_only", "run_dir=run")
        code = training.wait()
        printed = last_line(training.output)
        if code != RunFaultError.exit_code:
            return FaultResult(fault, printed=f"exit code {code}: {printed}")
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)  # nosec B607 - system tools
        resumed = workshop.resume("read_only")
        code = resumed.wait()
        done = compare(read_result(resumed.folder), workshop.reference) if code == 0 else None
        return FaultResult.of(fault, code, done, printed)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path | None]:
    """A memory file system of a size at `folder/run`; None where mounting is not allowed."""
    disk = folder / "run"
    disk.mkdir(parents=True)
    mounted = subprocess.run(  # nosec B607 - system tools
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "vqr1-fault", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        yield None
        return
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)  # nosec B607 - system tools
