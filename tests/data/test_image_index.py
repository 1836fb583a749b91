"""Images are found whatever their letter case, and never outside their folder."""

from __future__ import annotations

import csv
import errno
import os
from pathlib import Path

import pytest

from tests.support.images import noise_image
from vqr1.config import DatasetConfig, SplitConfig
from vqr1.data.image_index import FoundImage, ImageIndex
from vqr1.data.labelled_set import open_dataset
from vqr1.data.location import check_folder
from vqr1.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    (images / "Photo.JPG").write_bytes(b"x")
    (images / "sub" / "b.png").write_bytes(b"x")
    (tmp_path / "outside.png").write_bytes(b"x")
    return images


def test_letter_case_of_name_extension_and_folder_is_ignored(folder: Path) -> None:
    index = ImageIndex(folder)
    assert index.find("photo.jpg") == FoundImage("Photo.JPG")
    assert index.find("Photo.JPG") == FoundImage("Photo.JPG")
    assert index.find("SUB/B.PNG") == FoundImage("sub/b.png")
    assert index.find("none.png").problem == "no such file"
    assert index.find("sub/none/b.png").problem == "no such file"


def test_folders_that_cannot_be_listed(locked: Path) -> None:
    message = r"locked/?: the folder cannot be listed \(Permission denied\)"
    with pytest.raises(DataError, match=message):
        ImageIndex(locked).find("a.png")
    with pytest.raises(DataError, match=message):
        ImageIndex(locked.parent).find("locked/a.png")
    for root in (locked, locked / "below"):
        with pytest.raises(ConfigError, match=r"^dataset\.root='.*': the folder cannot be listed"):
            check_folder(root, "dataset")


def test_images_that_cannot_be_looked_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that may be listed, and no more."""

    def refuse(path: str) -> os.stat_result:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refuse)
        found = ImageIndex(folder).find("Photo.JPG")
    assert found == FoundImage(None, "cannot be read (Permission denied)")


def test_composed_and_decomposed_accents_are_one_name(folder: Path) -> None:
    (folder / "cafe\u0301.png").write_bytes(b"x")  # as macOS unpacks it
    assert ImageIndex(folder).find("caf\u00e9.png") == FoundImage("cafe\u0301.png")


def test_names_that_look_odd_are_found_or_named(tmp_path: Path) -> None:
    odd = ["a, b.png", "50%.png", "x=1.png", "two  words.png", "图片1.jpg", "q'1#&.png"]
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for name in [*odd, "sub/win.png", "back\\slash.png"]:
        noise_image(0).save(tmp_path / "images" / name)
    listed = [*odd, "sub\\win.png", "back\\slash.png", "%41.png"]
    with (tmp_path / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "mos"])
        writer.writerows([name, number] for number, name in enumerate(listed))
    labelled = open_dataset(
        DatasetConfig(
            name="csv",
            root=str(tmp_path),
            label_file="labels.csv",
            split=SplitConfig(by="none"),
            on_bad_image="skip",
            max_bad_share=0.5,
        )
    )
    assert labelled.table["image"].tolist() == [*odd, "sub/win.png"]
    assert all(labelled.image_path(row).is_file() for row in labelled.table.index)
    # A backslash separates folders, and nothing is decoded as in an address.
    assert labelled.bad_images == ("back/slash.png: no such file", "%41.png: no such file")


def test_exact_match_wins_and_two_others_are_ambiguous(folder: Path) -> None:
    (folder / "photo.jpg").write_bytes(b"x")
    index = ImageIndex(folder)
    assert index.find("photo.jpg").path == "photo.jpg"
    assert index.find("Photo.JPG").path == "Photo.JPG"
    with pytest.raises(DataError, match=r"'PHOTO.jpg' fits 2 files \(Photo.JPG, photo.jpg\)"):
        index.find("PHOTO.jpg")


def test_a_bare_name_is_searched_in_subfolders(folder: Path) -> None:
    index = ImageIndex(folder)
    assert index.find("B.png").path == "sub/b.png"
    assert index.find("elsewhere/b.png").path is None  # a stated subfolder is meant
    (folder / "other").mkdir()
    (folder / "other" / "b.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"fits 2 files \(other/b.png, sub/b.png\)"):
        ImageIndex(folder).find("b.png")


def test_paths_of_another_layout_lead_to_the_one_file_of_that_name(folder: Path) -> None:
    index = ImageIndex(folder, foreign_paths=True)
    assert index.find("SET/images/b.png").path == "sub/b.png"
    for name in ("large/b.png", "large/deep/c.png", "small/deep/c.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    index = ImageIndex(folder, foreign_paths=True)
    assert index.find("SET/large/b.png").path == "large/b.png"
    assert index.find("SET/Small/deep/c.png").path == "small/deep/c.png"
    with pytest.raises(DataError, match=r"'SET/deep/c.png' fits 2 files \(large/deep/c.png, small"):
        index.find("SET/deep/c.png")


def test_folder_and_empty_file_are_problems(folder: Path) -> None:
    (folder / "dir.png").mkdir()
    (folder / "empty.png").write_bytes(b"")
    index = ImageIndex(folder)
    assert index.find("dir.png") == FoundImage(None, "is a folder")
    assert index.find("empty.png") == FoundImage(None, "is empty (0 bytes)")


def test_links_must_stay_inside(folder: Path) -> None:
    os.symlink(folder / "Photo.JPG", folder / "inside.jpg")
    os.symlink("../outside.png", folder / "escape.png")
    os.symlink(folder.parent, folder / "up")
    os.symlink(folder / "nothing.png", folder / "dangling.png")
    index = ImageIndex(folder)
    assert index.find("inside.jpg").path == "inside.jpg"
    assert index.find("dangling.png").problem == "no such file"
    with pytest.raises(DataError, match=r"'escape.png' is a link that leaves the image folder"):
        index.find("escape.png")
    with pytest.raises(DataError, match=r"'up' is a link that leaves the image folder"):
        index.find("up/outside.png")


def test_the_image_folder_itself_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    os.symlink(folder, tmp_path / "linked")
    assert ImageIndex(tmp_path / "linked").find("sub/b.png").path == "sub/b.png"
