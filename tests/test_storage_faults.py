"""Disks that take nothing: how their errors are known, and what commands report of them."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
from pathlib import Path

import pytest
from safetensors import SafetensorError

from tests.cli.conftest import Command, run
from tests.support.images import noise_image
from tests.support.small_disk import file_limit
from vqr1.cli import data, evaluate, export, score
from vqr1.storage_faults import storage_line

__all__ = ["run"]


def copied(number: int, why: str) -> shutil.Error:
    return shutil.Error([("a", "b/c", f"[Errno {number}] {why}: 'a'")])


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "x", "f"), "f: No space left on device; make room there"),
        (OSError(errno.EDQUOT, "x"), "here: Disk quota exceeded; make room there"),
        (OSError(errno.EROFS, "x", "f"), "f: Read-only file system; make this place writable"),
        (PermissionError(errno.EACCES, "x", "f"), "f: Permission denied; make this place writable"),
        # shutil.copyfile and os.replace name what they read first.
        (OSError(errno.ENOSPC, "x", "read", None, "written"), "written: No space left on device; "
         "make room there"),
        (copied(errno.ENOSPC, "x"), "b/c: No space left on device; make room there"),
        (copied(errno.ENOENT, "x"), None),
        (SafetensorError("I/O: No space (os error 28)"), "here: I/O: No space (os error 28); make "
         "room there"),
        (SafetensorError("bad header"), None),
        (FileNotFoundError(errno.ENOENT, "x", "f"), None),
        (ValueError("no space"), None),
    ],
)  # fmt: skip
def test_the_line_of_an_error(error: Exception, line: str | None) -> None:
    assert storage_line(error, "here") == line
    later = RuntimeError("while cleaning up")
    later.__context__ = error
    assert storage_line(later, "here") == line


def test_what_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = PermissionError(errno.EACCES, "x", str(tmp_path))
    assert storage_line(error) == f"{tmp_path}: Permission denied; make this place writable"
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.R_OK)
    assert storage_line(error) == f"{tmp_path}: Permission denied; make this place readable"


TABLE = "image,score,mos\n" + "".join(f"{i}.png,{i * 1.7 % 5},{i * 1.1 % 5}\n" for i in range(60))
EVALUATION = [
    "predictions=table.csv", "logger=none", "statistics.bootstrap_draws=20",
    "report.published=false",
]  # fmt: skip


@pytest.mark.medium
def test_commands_on_a_disk_that_is_full(run: Command) -> None:
    Path("table.csv").write_text(TABLE)
    trained = Path("trained")
    (trained / "export").mkdir(parents=True)
    (trained / "config.yaml").write_text("model: {}\n")
    (trained / "export" / "model.safetensors").write_bytes(bytes(40_000))
    (trained / "export" / "model.safetensors").chmod(0o600)
    with file_limit(20_000):
        # Its plots are larger.
        evaluated = run(evaluate.main, *EVALUATION, "report.plots=true", "run_dir='a,b'")
        exported = run(export.main, "run=trained", "output=out")
        inspected = run(lambda: data.main(["inspect", "dataset=demo", "--decode", "1"]))
        prepared = run(lambda: data.main(["prepare", "dataset=demo"]))
    for outcome in (evaluated, exported, inspected):
        assert outcome.code == 74, outcome.err
        assert len([line for line in outcome.err.splitlines() if line.startswith("error:")]) == 1
        assert "Traceback" not in outcome.err + outcome.out
        assert "File too large; make room there" in outcome.err
    assert prepared.code == 2
    assert prepared.err.endswith("cannot be written (File too large)\n")
    assert not list(Path().glob("**/*.part"))
    assert not Path("out").exists()
    assert not list(Path().glob(".out.vqr1-partial-*"))
    # What is printed continues the evaluation, once there is room.
    words = shlex.split(evaluated.err.rpartition("continues with: ")[2])
    assert words[:2] == ["python", "eval.py"]
    again = run(evaluate.main, *words[2:])
    assert (again.code, again.err) == (0, "")
    assert Path("a,b/summary.json").is_file()


@pytest.mark.medium
@pytest.mark.skipif(not os.path.isdir("/sys/kernel"), reason="no file system that takes no folder")
def test_commands_where_nothing_can_be_written(run: Command) -> None:
    Path("table.csv").write_text(TABLE)
    place = "/sys/kernel/nothing"
    (Path("trained") / "export").mkdir(parents=True)
    (Path("trained") / "config.yaml").write_text("model: {}\n")
    for outcome in (
        run(evaluate.main, *EVALUATION, "report.plots=false", f"hydra.run.dir={place}"),
        run(export.main, "run=trained", f"output={place}/out"),
        run(lambda: data.main(["download", "kadid", "--root", place, "--from", "table.csv"])),
    ):
        assert outcome.code == 74, outcome.err
        assert outcome.err.splitlines()[-1].startswith(f"error: {place}"), outcome.err
        assert "make this place writable" in outcome.err
        assert "Traceback" not in outcome.err + outcome.out


@pytest.mark.medium
def test_rows_to_a_device_that_is_full(run: Command) -> None:
    noise_image(1).save("a.png")
    outcome = run(
        score.main, "a.png", "mode=greedy", "prompt=non_thinking", "format=csv", "output=/dev/full"
    )
    assert outcome.code == 74
    assert outcome.err.splitlines()[-1].startswith(
        "error: /dev/full: cannot be written (No space left on device); make room there"
    )
