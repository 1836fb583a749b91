"""The published training JSONL is read as it is and written in the same form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vqr1.data.jsonl import JsonlLine, jsonl_text, read_jsonl, write_jsonl
from vqr1.data.labels import load_labels
from vqr1.errors import ConfigError, DataError

RELEASED = "RL-KADID-10K_train_scoring.jsonl"


def test_released_file_is_read(shared: Path) -> None:
    folder = shared / "labels" / "vqr1_release"
    lines = read_jsonl(folder / RELEASED)
    assert len(lines) == 6125
    assert lines[0] == JsonlLine(
        "KADID-10K", "I01_01_01.png", 4.633587786259543, f"{folder / RELEASED}:1"
    )
    table = load_labels("jsonl", folder, label_file=RELEASED)
    assert (table["mos"].min(), table["mos"].max()) == (1.0, 5.0)


def test_writing_what_was_read_gives_the_same_bytes(shared: Path, tmp_path: Path) -> None:
    released = shared / "labels" / "vqr1_release" / RELEASED
    assert write_jsonl(tmp_path / "new" / "own.jsonl", read_jsonl(released)) == 6125
    assert (tmp_path / "new" / "own.jsonl").read_bytes() == released.read_bytes()


def test_ids_count_over_all_sets(tmp_path: Path) -> None:
    lines = [JsonlLine("A", "a.png", 1.0), JsonlLine("A", "b.png", 5.0), JsonlLine("B", "a.png", 3)]
    records = [json.loads(text) for text in jsonl_text(lines)]
    assert [record["id"] for record in records] == [1, 2, 3]
    assert [record["dataset_name"] for record in records] == ["A", "A", "B"]
    path = tmp_path / "all.jsonl"
    write_jsonl(path, lines)
    with pytest.raises(ConfigError, match=r"dataset.select=None: .*holds 2 sets \(A, B\)"):
        load_labels("jsonl", tmp_path, label_file="all.jsonl")
    with pytest.raises(ConfigError, match=r"dataset.select='C': .* holds A, B"):
        load_labels("jsonl", tmp_path, label_file="all.jsonl", select="C")
    table = load_labels("jsonl", tmp_path, label_file="all.jsonl", select="A")
    assert table["image"].tolist() == ["a.png", "b.png"]


def record(**changes: object) -> str:
    plain = json.loads(next(iter(jsonl_text([JsonlLine("A", "a.png", 2.5)]))))
    return json.dumps({**plain, **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "expected an object, found list"),
        (record(dataset_name=None), "dataset_name=None must be"),
        (record(image=["a.png", "b.png"]), "images a row: 1 in 1 rows, but .*own.jsonl:2: 2;"),
        (record(image=[]), "must be a list of file names"),
        (record(image=["a.png", 1]), "must be a list of file names"),
        (record(conversations=[]), "must hold one turn from 'gpt'"),
        (record(conversations=[{"from": "gpt", "value": "good"}]), "'good' is not a number"),
        (record(conversations=[{"from": "gpt", "value": None}]), "None is not a number"),
        (record(conversations=[{"from": "gpt", "value": True}]), "True is not a number"),
        (record(conversations=[{"from": "gpt", "value": float("nan")}]), "must be finite"),
        (record(image=["../a.png"]), "leaves the image folder"),
    ],
)
def test_bad_lines_name_file_and_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(record(image=["first.png"]) + "\n" + text + "\n")
    with pytest.raises(DataError, match=message) as caught:
        load_labels("jsonl", tmp_path, label_file="own.jsonl")
    assert f"{path}:2:" in str(caught.value)


def test_scores_as_text_and_plain_image_names_are_read(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(record(image="a.png", conversations=[{"from": "gpt", "value": "3.25"}]))
    assert read_jsonl(path)[0].mos == 3.25
    assert read_jsonl(path)[0].image == "a.png"
