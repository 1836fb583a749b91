"""Lists and names on a stream; files, folders and globs are tested with the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from vqr1.errors import DataError
from vqr1.inference.files import PassedOver, find_images


def test_names_of_a_list_and_a_stream(tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_bytes('\ufeffid,image\r\n1,a.png\r\n2,"b, c.png"\r\n3,\r\n4,a.png\r\n'.encode())
    (tmp_path / "a.png").write_bytes(b"")
    listed = [tmp_path / "a.png", tmp_path / "b, c.png"]
    assert find_images([str(table)]) == listed
    assert find_images([str(table), str(tmp_path / "a.png")]) == listed
    absolute = tmp_path / "absolute.csv"
    absolute.write_text("file\n/elsewhere/x.png\n")
    assert find_images([str(absolute)], column="file") == [Path("/elsewhere/x.png")]
    names = ["one.png\n", "\n", "two words.png\r\n", "three.png"]
    assert [str(path) for path in find_images(["-"], names=names)] == [
        "one.png",
        "two words.png",
        "three.png",
    ]


def test_what_a_folder_holds_beside_images_is_counted(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    images = ["a.AVIF", "b.jfif", "c.heic", "sub/图片 50%=,1.jpg"]
    for name in [*images, "notes.txt", "sub/more.TXT", "README", ".hidden.png"]:
        (tmp_path / name).write_bytes(b"x")
    passed = PassedOver()
    assert find_images([str(tmp_path)], passed=passed) == [tmp_path / name for name in images]
    assert passed.sentences() == [
        "4 files in folders are no images by their names (2 .txt, 1 hidden, 1 no ending)"
    ]
    # A file that is named itself is taken whatever it is called.
    alone = PassedOver()
    assert find_images([str(tmp_path / "notes.txt")], passed=alone) == [tmp_path / "notes.txt"]
    assert alone.sentences() == []


def test_lists_that_are_none(tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("id,file\n1,a.png\n")
    with pytest.raises(DataError, match=r"list\.csv:1: no column 'image'; it has id, file"):
        find_images([str(table)])
    with pytest.raises(DataError, match="-: no names on standard input"):
        find_images(["-"], names=[])
    empty = tmp_path / "empty.csv"
    empty.write_text("image\n")
    with pytest.raises(DataError, match="this list names no image"):
        find_images([str(empty)])
    empty.write_bytes(b"image\n\xff\xfe.png\n")
    with pytest.raises(DataError, match=r"empty\.csv:2: byte 0xff is not UTF-8"):
        find_images([str(empty)])
    empty.write_text("image,image\na.png,b.png\n")
    with pytest.raises(DataError, match=r"empty\.csv:1: column 'image' stands 2 times"):
        find_images([str(empty)])
    # The name holds a comma: half of it would be an image that is not there, or another one.
    empty.write_text("image\na.png\nb, c.png\n")
    with pytest.raises(DataError, match=r"empty\.csv:3: 2 columns, expected 1 .*quote a text"):
        find_images([str(empty)])


def test_linked_folders_are_looked_through_once(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    for place in (folder / "m" / "sub", folder / ".hidden", elsewhere / "deep"):
        place.mkdir(parents=True)
        (place / "x.png").touch()
    links = {
        "a": folder / "m",  # here under its own name
        "b": elsewhere,
        "c": elsewhere / "deep",  # below another link
        "d": folder / ".hidden",
        "m/circle": folder,
        "e": tmp_path / "gone",
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    (elsewhere / "back").symlink_to(folder)
    names = ("b/deep/x.png", "d/x.png", "m/sub/x.png")
    assert find_images([str(folder)]) == [folder / name for name in names]
