"""Evaluated images that a model was trained on: by file, by name, and where nothing is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.images import noise_image
from vqr1.config import DatasetConfig, SplitConfig
from vqr1.data.image_record import (
    FILE,
    copy_record,
    read_record,
    record_of_model,
    recorded_images,
    write_record,
)
from vqr1.data.labelled_set import open_dataset
from vqr1.errors import DataError
from vqr1.evaluation.model_source import trained_sets
from vqr1.evaluation.trained_on import TrainedOn, TrainingImages, without_trained


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two training images and a validation image."""
    for name, content in (("a", b"one"), ("b", b"two"), ("v", b"val")):
        (tmp_path / f"{name}.png").write_bytes(content)
    return tmp_path


def recorded(folder: Path) -> list[tuple[str, str, str, Path]]:
    return [
        ("kadid", "train", "a.png", folder / "a.png"),
        ("kadid", "train", "b.png", folder / "b.png"),
        ("kadid", "val", "v.png", folder / "v.png"),
        ("kadid", "train", "gone.png", folder / "gone.png"),
    ]


def test_a_file_counts_whatever_its_name_and_a_name_alone_does_not(folder: Path) -> None:
    (folder / "copy.png").write_bytes(b"one")
    (folder / "other").mkdir()
    (folder / "other/b.png").write_bytes(b"other bytes")
    (folder / "new.png").write_bytes(b"new")
    training = TrainingImages(recorded_images(recorded(folder)))
    images = {
        "a.png": folder / "a.png",
        "copy.png": folder / "copy.png",
        "b.png": folder / "other/b.png",
        "v.png": folder / "v.png",
        # Of the size of a training image, but another one; and one whose training file was lost.
        "new.png": folder / "new.png",
        "gone.png": folder / "new.png",
    }
    assert training.seen("kadid", images) == TrainedOn(
        6, trained=2, renamed=1, chosen=1, name_only=2
    )
    # Another set's a.png is another name; its file is what it was.
    assert training.seen("koniq", {"a.png": folder / "a.png"}) == TrainedOn(1, 1, renamed=1)
    assert training.seen("koniq", {"b.png": folder / "other/b.png"}) == TrainedOn(1, 0)
    assert training.seen("kadid", {"missing.png": folder / "missing.png"}) == TrainedOn(1, 0)


def test_other_versions_of_a_training_image_are_near(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VQR1_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "set"
    root.mkdir()
    scenes = [noise_image(seed, 40, 40).resize((200, 200)) for seed in range(3)]
    scenes[0].save(tmp_path / "0.png")
    scenes[0].resize((150, 140)).save(root / "near.jpg")
    (root / "same.png").write_bytes((tmp_path / "0.png").read_bytes())
    scenes[1].save(root / "other.png")
    scenes[2].save(root / "0.png")  # the name alone
    images = {name: root / name for name in ("near.jpg", "same.png", "other.png", "0.png")}
    write_record(tmp_path, recorded_images([("csv", "train", "0.png", tmp_path / "0.png")]))
    training = TrainingImages(read_record(tmp_path) or [])
    assert training.seen("csv", images) == TrainedOn(4, 1, renamed=1, name_only=1, near=1)
    assert training.seen("csv", images, hashed=False) == TrainedOn(4, 1, renamed=1, name_only=1)

    (root / "labels.csv").write_text("image,mos\n" + "".join(f"{n},{len(n)}\n" for n in images))
    split = SplitConfig(by="none", near_duplicates="exclude")
    config = DatasetConfig(name="csv", root=str(root), label_file="labels.csv", split=split)
    sets = {"csv": open_dataset(config)}
    kept = without_trained(sets, "test", str(tmp_path))["csv"].rows("test")
    assert kept["image"].tolist() == ["other.png", "0.png"]
    assert "2 of 4 images of csv are, or are near-identical to, images that" in caplog.text
    assert len(without_trained(sets, "test", None)["csv"].rows("test")) == 4
    refusing = replace(config, split=replace(split, near_duplicates="refuse"))
    with pytest.raises(DataError, match=r"dataset\.split\.near_duplicates=refuse: 2 of 4 images"):
        without_trained({"csv": open_dataset(refusing)}, "test", str(tmp_path))


def test_the_record_is_read_as_it_was_written_and_names_nobody(folder: Path) -> None:
    images = recorded_images(recorded(folder))
    write_record(folder, images)
    assert read_record(folder) == images
    text = (folder / FILE).read_text()
    assert text.splitlines()[0] == "dataset,split,name,size,content,perceptual_hash"
    # SHA-256 of "one" begins so; the file's name is no part of the record.
    assert text.splitlines()[1].endswith(",3,7692c3ad3540bb803c020b3aee66cd88,")
    assert "a.png" not in text
    assert images[3].content == ""
    lines = [line.rpartition(",")[0] for line in text.splitlines()]
    (folder / FILE).write_text("\n".join(lines) + "\n")  # as versions before wrote it
    assert read_record(folder) == images


def test_a_model_finds_the_record_of_its_training(folder: Path) -> None:
    for name in ("run/export", "run/other", "copied"):
        (folder / name).mkdir(parents=True)
    write_record(folder / "run", recorded_images(recorded(folder)))
    copy_record(folder / "run", folder / "copied")
    copy_record(folder / "run", folder / "nowhere")
    images = read_record(folder / "run")
    assert record_of_model(str(folder / "run/export")) == images
    assert record_of_model(folder / "copied") == images
    # A folder that merely lies in a run is no export of it.
    assert record_of_model(folder / "run/other") is None
    assert record_of_model(None) is None
    assert record_of_model("someone/model") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: the header must be dataset,split,name,size,content"),
        ("dataset,split,name,size\n", "line 1: the header"),
        ("dataset,split,name,size,content\nkadid,train,0,1,0\nkadid,train,0\n",
         "line 3: 3 fields, expected 5"),
        ("dataset,split,name,size,content\nkadid,train,0,big,0\n", "line 2: 5 fields"),
        ("dataset,split,name,size,content,perceptual_hash\nkadid,train,0,1,0,xyz\n",
         "line 2: perceptual_hash='xyz' must be 64 hexadecimal digits"),
    ],
)  # fmt: skip
def test_a_damaged_record_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(DataError, match=words):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ("dataset: {name: kadid}\n", {"kadid"}),
        ("dataset: {parts: {a: {name: kadid}, b: {name: spaq}}}\n", {"kadid", "spaq"}),
        ("seed: 1\n", set()),
        ("- 1\n", set()),
        ("dataset: [\n", set()),
        (None, set()),
    ],
)
def test_a_run_without_a_record_still_names_its_sets(
    tmp_path: Path, config: str | None, found: set[str]
) -> None:
    export = tmp_path / "export"
    export.mkdir()
    if config is not None:
        (tmp_path / "config.yaml").write_text(config)
    assert trained_sets(str(export)) == found
    assert trained_sets(str(tmp_path)) == set()
    assert trained_sets(None) == set()
