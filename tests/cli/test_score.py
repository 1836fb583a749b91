"""`python score.py`: what it finds, writes, says and returns."""

from __future__ import annotations

import csv
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Command
from tests.support.pictures import noise_picture
from vqr1.cli.compose import compose_config, plain_values
from vqr1.cli.score import main, split_arguments
from vqr1.config import ScoreConfig, config_dir, validate
from vqr1.errors import DataError
from vqr1.scoring.files import find_images

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures, one of them a folder below, beside files that are none."""
    place = tmp_path / "photos"
    (place / "below").mkdir(parents=True)
    noise_picture(1).save(place / "one.png")
    noise_picture(2).save(place / "below" / "two.JPG")
    (place / "notes.txt").write_text("not an image")
    noise_picture(3).save(place / ".hidden.png")
    return place


def test_table_on_standard_output(run: Command, folder: Path) -> None:
    outcome = run(main, "photos", "mode=greedy")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["score", "std", "image"]
    assert [line.split()[-1] for line in lines[1:]] == ["photos/one.png", "photos/below/two.JPG"]
    for line in lines[1:]:
        assert re.fullmatch(r" +\d\.\d{4} +-  photos/\S+", line)
    assert outcome.err == "2 scored, 0 unreadable, 0 invalid\n"


def test_csv_and_jsonl_hold_the_same(run: Command, folder: Path) -> None:
    (folder / "text.jpg").write_text("this is text")
    (folder / "cut.png").write_bytes((folder / "one.png").read_bytes()[:100])
    by_csv = run(main, "photos", "output=scores.csv", "batch_size=1")
    by_jsonl = run(main, "photos", "output=scores.jsonl", "batch_size=3")
    assert (by_csv.code, by_jsonl.code) == (1, 1)
    assert by_csv.out == ""
    errors = by_csv.err.splitlines()
    assert [error.split(": ")[:2] for error in errors[:2]] == [
        ["unreadable", "photos/cut.png"],
        ["unreadable", "photos/text.jpg"],
    ]
    assert errors[2:] == ["2 scored, 2 unreadable, 0 invalid"]

    rows = list(csv.DictReader(Path("scores.csv").read_text().splitlines(keepends=True)))
    records = [json.loads(line) for line in Path("scores.jsonl").read_text().splitlines()]
    names = ["photos/cut.png", "photos/one.png", "photos/text.jpg", "photos/below/two.JPG"]
    assert [row["path"] for row in rows] == [record["path"] for record in records] == names
    for row, record in zip(rows, records, strict=True):
        assert list(row) == list(record) == ["path", "score", "std", "valid", "text", "error"]
        if record["error"]:
            assert (row["score"], row["valid"], row["error"]) == ("", "false", record["error"])
            assert (record["score"], record["std"], record["text"]) == (None, None, None)
        else:
            assert float(row["score"]) == pytest.approx(record["score"], abs=1e-4)
            assert float(row["std"]) == pytest.approx(record["std"], abs=1e-4)
            assert 1.0 <= record["score"] <= 5.0
            assert record["text"] == row["text"]
            assert record["valid"] is True
            assert row["valid"] == "true"


def test_invalid_answers_are_counted_and_never_numbers(run: Command, folder: Path) -> None:
    outcome = run(
        main, "photos/one.png", "format=jsonl", "mode=sampled", "mode.samples=2",
        "mode.sampling.max_new_tokens=3",
    )  # fmt: skip
    assert outcome.code == 0
    record = json.loads(outcome.out)
    assert (record["score"], record["std"], record["valid"]) == (None, None, False)
    assert outcome.err == "0 scored, 0 unreadable, 1 invalid\n"
    shown = run(main, "photos/one.png", "mode=greedy", "mode.sampling.max_new_tokens=3")
    assert shown.out.splitlines()[1].split() == ["-", "-", "photos/one.png", "(invalid", "answer)"]


def test_descriptions(run: Command, folder: Path) -> None:
    outcome = run(main, "photos/one.png", "prompt=describe", "mode.sampling.max_new_tokens=16")
    assert outcome.code == 0
    assert re.fullmatch(r"photos/one\.png: .+\n", outcome.out)
    assert outcome.err == "1 described, 0 unreadable, 0 invalid\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere", "*.png"), "error: nowhere: no such file or folder\n*.png: no image matches"),
        (("empty",), "error: empty: no images in this folder"),
        (("mode=greedy",), "error: no images: name files, folders or globs"),
        (("photos", "output=scores.xlsx"), "error: output=scores.xlsx: its ending does not say"),
        (
            ("photos", "output=none/a.csv"),
            "error: output=none/a.csv: there is no folder none; make it",
        ),
        (("photos", "output=empty", "format=csv"), "error: output=empty: the file cannot be writt"),
        (("photos", "batch_size=0"), "error: batch_size=0: "),
        (("photos", "color=red"), "error: Could not override 'color'"),
        (("photos", "mode=best"), "Available options"),
        (("photos", "mode.samples=3"), "error: mode.samples=3: mode=expected gives one answer"),
        (("photos", "model.path=nomodel"), "error: model.path=nomodel: "),
        (("photos", "hardware.devices=2"), "error: hardware.devices=2, hardware.nodes=1: "),
    ],
)
def test_mistakes_end_with_code_2(
    run: Command, folder: Path, arguments: tuple[str, ...], words: str
) -> None:
    Path("empty").mkdir()
    outcome = run(main, *arguments)
    assert outcome.code == 2
    assert words in outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.out == ""


def test_a_mistake_leaves_an_earlier_result_alone(run: Command, folder: Path) -> None:
    Path("scores.csv").write_text("kept")
    assert run(main, "photos", "output=scores.csv", "model.path=nomodel").code == 2
    assert Path("scores.csv").read_text() == "kept"


def test_paths_and_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("seed=1.png").write_bytes(b"")
    arguments = ["a.png", "seed=1.png", "seed=2", "x/k=v.png", "model.path=a/b", "+mode.x=1"]
    assert split_arguments(arguments) == (
        ["a.png", "seed=1.png", "x/k=v.png"],
        ["seed=2", "model.path=a/b", "+mode.x=1"],
    )


def test_files_folders_and_globs(folder: Path) -> None:
    one, two = folder / "one.png", folder / "below" / "two.JPG"
    notes = folder / "notes.txt"
    assert find_images([str(folder)]) == [one, two]
    assert find_images([str(folder / "*")]) == [two, one]
    assert find_images([str(folder / "**" / "*.JPG")]) == [two]
    assert find_images([str(two), str(folder), str(one)]) == [two, one]
    # A file that is named itself is tried whatever its ending.
    assert find_images([str(notes)]) == [notes]
    with pytest.raises(DataError, match="gone: no such file or folder"):
        find_images([str(one), str(folder / "gone")])


@pytest.mark.parametrize(
    "choice",
    [
        f"{group}={file.stem}"
        for group in ("model", "prompt", "mode", "hardware")
        for file in sorted((config_dir() / group).glob("*.yaml"))
    ],
)
def test_every_choice_composes(choice: str) -> None:
    validate(ScoreConfig, plain_values(compose_config("score", [choice])))


def test_the_script_is_the_command(run: Command) -> None:
    Image.new("RGB", (60, 40), "gray").save("gray image.png")

    def script() -> None:
        runpy.run_path(str(ROOT / "score.py"), run_name="__main__")

    outcome = run(script, "gray image.png", "mode=greedy", "format=csv")
    assert outcome.code == 0
    header, row = outcome.out.splitlines()
    assert header == "path,score,std,valid,text,error"
    assert row.startswith("gray image.png,")


def test_mistakes_are_found_before_torch_loads() -> None:
    code = "import sys, vqr1, vqr1.cli.score; print('torch' in sys.modules)"
    light = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert light.stdout.split() == ["False"]
