"""What a command may write to, by the folder's records and the file's content."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from tests.support.images import noise_image
from vqr1.cli.compose import check_hydra_folders
from vqr1.errors import ConfigError
from vqr1.outputs import (
    EVALUATION,
    SWEEP,
    TRAINING,
    NewFolders,
    check_file,
    check_folder,
    check_summary_folder,
    kinds_of,
    own_json,
    own_png,
    png_metadata,
    remove_unused,
    target,
    write_json,
)


def test_new_empty_and_own_folders(tmp_path: Path) -> None:
    check_folder(tmp_path / "new" / "deeper", EVALUATION, "run_dir")
    check_folder(tmp_path, EVALUATION, "run_dir")
    # What Hydra, a refused command and a shell's redirection leave is nobody's.
    for name in (".hydra", "tracking", "hydra/.hydra"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("run.lock", "slurm-7.out", "train.log"):
        (tmp_path / name).touch()
    for kind in (TRAINING, EVALUATION, SWEEP):
        check_folder(tmp_path, kind, "run_dir")
    (tmp_path / "evaluation.json").write_text("{}")
    (tmp_path / "report.md").touch()
    assert kinds_of(tmp_path) == {EVALUATION}
    check_folder(tmp_path, EVALUATION, "run_dir")
    with pytest.raises(ConfigError, match=r"run_dir=.*: this folder holds an evaluation; choose"):
        check_folder(tmp_path, TRAINING, "run_dir")


def test_a_folder_of_two_kinds_is_nobodys(tmp_path: Path) -> None:
    for name in ("run.json", "evaluation.json"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match="holds a training; choose"):
        check_folder(tmp_path, EVALUATION, "run_dir")


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.jpg").touch()
    with pytest.raises(ConfigError, match=r"holds 0\.jpg, 1\.jpg, 2\.jpg, \.\.\., which a train"):
        check_folder(tmp_path, TRAINING, "run_dir")


def test_a_sweeps_own_summary(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("{}")
    (tmp_path / "sweep_summary.json").write_text("{}")
    check_folder(tmp_path, SWEEP, "hydra.sweep.dir")
    other = tmp_path / "summary"
    check_summary_folder(other, "output", "train.py -m seed=1,2", "a")
    other.mkdir()
    written = {"command": "train.py -m seed=1,2", "sweep": "a"}
    (other / "sweep_summary.json").write_text(json.dumps(written))
    check_summary_folder(other, "output", "train.py -m seed=1,2", "a")
    for command, sweep in (("train.py -m seed=1,2", "b"), ("train.py -m seed=1,3", "a")):
        with pytest.raises(ConfigError, match="the summary of another sweep"):
            check_summary_folder(other, "output", command, sweep)
    # An earlier version did not note which sweep it was.
    (other / "sweep_summary.json").write_text(json.dumps({"command": "train.py -m seed=1,2"}))
    check_summary_folder(other, "output", "train.py -m seed=1,2", "b")


def test_own_png_and_json_are_recognised(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    check_file(path, "--out", own_png("one"))
    path.touch()
    check_file(path, "--out", own_png("one"))
    Figure().savefig(path, metadata=png_metadata("one"))
    check_file(path, "--out", own_png("one"))
    assert Image.open(path).size == (640, 480)
    noise_image(0).save(tmp_path / "photo.png")
    for other, command in ((path, "two"), (tmp_path / "photo.png", "one")):
        with pytest.raises(ConfigError, match=r"--out=.*png: the file exists, and this command di"):
            check_file(other, "--out", own_png(command))
    report = tmp_path / "a.json"
    write_json(report, {"metrics": [1, 2]}, "one")
    assert json.loads(report.read_text()) == {"written_by": "one", "metrics": [1, 2]}
    assert target(own_json("one"))(str(report)) == report
    for text in ("[1]", "{", '{"written_by": "two"}'):
        report.write_text(text)
        with pytest.raises(argparse.ArgumentTypeError, match="did not write it"):
            target(own_json("one"))(str(report))


def test_what_hydra_writes_into_before_a_command_begins(tmp_path: Path) -> None:
    (tmp_path / "run.json").touch()
    check_hydra_folders("train", [f"hydra.run.dir={tmp_path}", "seed=1"])
    check_hydra_folders("eval", ["hydra.run.dir=outputs/${now:%H}", "hydra.run.dir=.", "run_dir=x"])
    for command, argument in (
        ("eval", f"hydra.run.dir={tmp_path}"),
        ("eval", f"++hydra.run.dir='{tmp_path}'"),
        ("export", f"hydra.run.dir={tmp_path}"),
        ("train", f"hydra.sweep.dir={tmp_path}"),
    ):
        with pytest.raises(ConfigError, match=r"^hydra\..*dir=.*holds a training"):
            check_hydra_folders(command, [argument])


def test_folders_that_were_made_in_vain_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ".hidden").write_text("x")
    folders = NewFolders([Path("mine"), Path("new/deep"), Path("outputs/train/DATE")])
    for name in ("new/deep", "outputs/train/now", "outputs/train/other"):
        (tmp_path / name / ".hydra").mkdir(parents=True)
        (tmp_path / name / "run.lock").write_text("")
    (tmp_path / "outputs" / "train" / "other" / "config.yaml").write_text("a: 1")
    folders.remove_unused([Path(), Path("mine"), Path("new/deep"), Path("outputs/train/now"),
                           Path("outputs/train/other"), Path("never/made")])  # fmt: skip
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == [
        "mine", "mine/.hidden", "outputs", "outputs/train", "outputs/train/other",
        "outputs/train/other/.hydra", "outputs/train/other/config.yaml",
        "outputs/train/other/run.lock",
    ]  # fmt: skip


HOLDER = """\
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("lock", ["run.lock", "locks/sweep/run.lock"])
def test_a_folder_that_another_process_works_in_stays(lock: str, tmp_path: Path) -> None:
    """Two commands of one second have one folder: the refused one must not take it away."""
    folder = tmp_path / "outputs" / "2026-11-30_12-00-00"
    folders = NewFolders([folder])
    (folder / lock).parent.mkdir(parents=True)
    (folder / ".hydra").mkdir()
    pipe = subprocess.PIPE
    command = [sys.executable, "-ISc", HOLDER, str(folder / lock)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        folders.remove_unused([folder])
        remove_unused(folder)
        assert sorted(path.name for path in folder.iterdir()) == sorted(
            {".hydra", lock.split("/")[0]}
        )
    folders.remove_unused([folder])
    assert not folder.exists()
