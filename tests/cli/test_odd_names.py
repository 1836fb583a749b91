"""Files and folders with odd names: through label files, lists, arguments, overrides, uploads."""

from __future__ import annotations

import csv
import os
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from tests.cli.conftest import Command
from tests.support.images import noise_image
from vqr1.cli import data, evaluate, score, train
from vqr1.config import CsvColumns, DatasetConfig, SplitConfig
from vqr1.data.jsonl import JsonlLine, write_jsonl
from vqr1.data.labelled_set import open_dataset
from vqr1.inference.arguments import split_arguments
from vqr1.inference.files import find_images

ODD = (
    "a, b.png", "50%.png", "%41.png", "x=1.png", "two  words.png", " blank.png", "图片1.jpg",
    "q'1#&.png", 'a "hi".png', "-dash.png", "--mode.png", "[a].png", "{b}.png", "$HOME.png",
    "~name.png", "a;b.png", "!c.png", "*.png", "d?.png", "naïve.png",
)  # fmt: skip
"""Names that a folder can hold on any common system but Windows."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "images"
    place.mkdir()
    for number, name in enumerate(ODD):
        noise_image(number, 32, 32).save(place / name, "PNG")
    return place


def opened(name: str, root: Path, file: str) -> list[str]:
    split = SplitConfig(by="none")
    columns = CsvColumns(separator=",") if name == "csv" else None
    labelled = open_dataset(
        DatasetConfig(name=name, root=str(root), label_file=file, split=split, columns=columns)
    )
    assert all(labelled.image_path(row).is_file() for row in labelled.table.index)
    return labelled.table["image"].tolist()


def test_label_files(folder: Path) -> None:
    root = folder.parent
    # A blank before a name is taken for one after a separator.
    names = [name for name in ODD if name == name.strip()]
    with (root / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("image", "mos"), *zip(names, range(len(names)), strict=True)])
    assert opened("csv", root, "labels.csv") == names
    write_jsonl(root / "l.jsonl", [JsonlLine("A", name, float(n)) for n, name in enumerate(ODD)])
    assert opened("jsonl", root, "l.jsonl") == list(ODD)


def test_lists_and_arguments(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    here = [Path(name) for name in ODD]
    with Path("list.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("image",), *((name,) for name in ODD)])
    assert find_images(["list.csv"]) == here
    paths, overrides = split_arguments(ODD)
    assert (paths, overrides) == (list(ODD), [])
    assert find_images(paths) == here
    assert sorted(find_images(["."])) == sorted(here)
    assert find_images(["-"], names=[f"{name}\n" for name in ODD]) == here
    # A list that was made on Windows; a name that holds a backslash is that name.
    Path("sub").mkdir()
    for name in ("sub/a.png", "b\\c.png"):
        noise_image(0).save(name)
    Path("list.csv").write_text("image\nsub\\a.png\nb\\c.png\n")
    assert find_images(["list.csv"]) == [Path("sub/a.png"), Path("b\\c.png")]


def test_arguments_of_the_command(run: Command, folder: Path) -> None:
    os.chdir(folder)
    outcome = run(score.main, "--", *ODD, "mode=greedy", "prompt=non_thinking", "format=csv")
    assert (outcome.code, outcome.err.splitlines()[-1]) == (0, "20 scored, 0 unreadable, 0 invalid")
    rows = csv.DictReader(outcome.out.splitlines(keepends=True))
    assert [row["path"] for row in rows] == list(ODD)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["y=1.png"], "y: no such key in this configuration; `--help` lists its keys, and another "
                      "choice of a group may have it; and there is no file y=1.png"),
        (["./y=1.png"], "./y=1.png: no such file or folder"),
        (["[z].png"], "[z].png: no image matches; check the pattern, or name a folder"),
    ],
)  # fmt: skip
def test_names_that_are_not_there(
    run: Command, tmp_path: Path, arguments: list[str], message: str
) -> None:
    outcome = run(score.main, *arguments)
    assert (outcome.code, outcome.err) == (2, f"error: {message}\n")


@pytest.mark.parametrize(
    "name", ["a,b", "图片", "a=b", "(old)", "it's", 'the "set"', "a, it's", "{x}", "back\\slash,"]
)
def test_roots_are_quoted_as_the_message_shows(run: Command, tmp_path: Path, name: str) -> None:
    root = tmp_path / name
    root.mkdir()
    for number in range(2):
        noise_image(number).save(root / f"{number}.png")
    (root / "labels.csv").write_text("image,mos\n0.png,1\n1.png,2\n")
    verify = ["verify", "dataset=csv", "dataset.split.by=none"]

    def command(override: str) -> Command:
        return run(lambda: data.main([*verify, override]))

    refused = command(f"dataset.root={root}")
    assert refused.code == 2
    (line,) = refused.err.splitlines()
    (quoted,) = shlex.split(line.rpartition(": ")[2])
    done = command(quoted)
    assert (done.code, done.err) == (0, ""), (line, done.err)
    assert "2 of 2 labelled images; complete" in done.out


@pytest.mark.parametrize(
    ("command", "arguments"),
    [(evaluate, ["predictions=x.csv", "labels=file"]), (train, ["chain=[sft]"])],
)
def test_a_home_that_no_shell_has_expanded(
    run: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: ModuleType,
    arguments: list[str],
) -> None:
    """The folder in it is that of the run, which is refused as the folder of another command."""
    home = tmp_path / "home"
    (home / "x").mkdir(parents=True)
    (home / "x" / "sweep.json").touch()
    monkeypatch.setenv("HOME", str(home))
    outcome = run(command.main, *arguments, "run_dir='~/x'", "logger=none")
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: run_dir={home}/x: this folder holds a sweep; choose")
    assert not (tmp_path / "~").exists()
