"""Tables as people have them: read as they are, or one line states what is open."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from vqr1.cli.options import load_data_config
from vqr1.config import CsvColumns, DatasetConfig
from vqr1.data.labelled_set import LabelledSet, open_dataset
from vqr1.data.labels import load_labels
from vqr1.errors import ConfigError, DataError, UserError


def opened(root: Path, *overrides: str) -> LabelledSet:
    """The set that one command line opens, without an edited file."""
    config = load_data_config(["dataset=csv", f"dataset.root={root}", *overrides])
    assert isinstance(config.dataset, DatasetConfig)
    return open_dataset(config.dataset)


def place(path: Path) -> None:
    """A file that is there; opening a set decodes nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


def write_book(path: Path, **sheets: list[list[Any]]) -> None:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)


def test_headerless_names_without_their_subfolder(tmp_path: Path) -> None:
    # 120 names in 40 folders, every third image missing.
    names = [f"IMG_{n:04d}.jpg" for n in range(120)]
    for n, name in enumerate(names):
        if n % 3:
            place(tmp_path / f"scene {n % 40:02d}" / name)
    lines = [f"{name},{n / 10}" for n, name in enumerate(names)]
    (tmp_path / "all.csv").write_text("\n".join(lines))
    command = (
        "dataset.label_file=all.csv", "dataset.columns.image=0", "dataset.columns.mos=1",
        "dataset.on_bad_image=skip", "dataset.max_bad_share=0.35",
    )  # fmt: skip
    labelled = opened(tmp_path, *command)
    assert (len(labelled.table), labelled.skipped) == (80, 40)
    assert labelled.table["image"].tolist()[:2] == [
        "scene 01/IMG_0001.jpg",
        "scene 02/IMG_0002.jpg",
    ]
    assert labelled.table["mos"].tolist()[:2] == [0.1, 0.2]
    assert labelled.form == "columns separated by commas"
    with pytest.raises(DataError, match=r"33\.3%, above dataset\.max_bad_share=0\.3"):
        opened(tmp_path, *command, "dataset.max_bad_share=0.3")
    place(tmp_path / "scene 30" / names[1])
    with pytest.raises(DataError, match=r"'IMG_0001\.jpg' fits 2 files \(scene 01.*, scene 30"):
        opened(tmp_path, *command)


def test_spreadsheet_of_mos_by_number(tmp_path: Path) -> None:
    for n in range(1, 4):
        place(tmp_path / f"图片{n}.jpg")
    rows = [["图片编号", "平均分"], [1, 3.5], [2, 4], [3.0, "2,25"], [None, None]]
    write_book(tmp_path / "MOS.xlsx", Sheet1=rows, Sheet2=[])
    labelled = opened(
        tmp_path, "dataset.label_file=MOS.xlsx", "dataset.columns.header=true",
        "dataset.columns.image=0", "dataset.columns.mos=1",
        "dataset.columns.name_pattern='图片{}.jpg'",
    )  # fmt: skip
    assert labelled.table["image"].tolist() == ["图片1.jpg", "图片2.jpg", "图片3.jpg"]
    assert labelled.table["mos"].tolist() == [3.5, 4.0, 2.25]
    assert labelled.form == "spreadsheet, sheet 'Sheet1', decimal commas"


ROWS = [("a.png", 4.57, None), ("b.png", 3.0, None)]


@pytest.mark.parametrize(
    ("text", "columns", "rows"),
    [
        ("image;mos\na.png;4,57\nb.png;3\n", {}, ROWS),
        ("image\tmos\na.png\t4.57\nb.png\t3\n", {}, ROWS),
        ('image,mos\na.png,"4,57"\nb.png,"3,0"\n', {}, ROWS),
        ("a.png;4,57\nb.png;3\n", {"image": 0, "mos": 1, "separator": ";"}, ROWS),
        ("a.png\t4,57\nb.png\t3\n", {"image": 0, "mos": 1, "separator": "tab"}, ROWS),
        ("x;image;mos\n1;a.png;4,57\n2;b.png;3\n", {"image": 1, "mos": 2, "header": True}, ROWS),
        ("image;mos\na.png;4,570\nb.png;3\n", {"decimal": "comma"}, ROWS),
        ("image;mos\na.png;0,125\nb.png;3\n", {}, [("a.png", 0.125, None), ROWS[1]]),
        ("image;mos\na.png;1,250\nb.png;3,5\n", {}, [("a.png", 1.25, None), ("b.png", 3.5, None)]),
        ('"name; with, marks",1\nb.png,3\n', {"image": 0, "mos": 1},
         [("name; with, marks", 1.0, None), ROWS[1]]),
        # (4 + 5 + 3) / 3 = 4, variance (0 + 1 + 1) / 2; (2 + 5) / 2 = 3.5, variance 2 * 2.25 / 1
        ("image,r1,r2,r3,age\na.png,4,5,3,40\nb.png,2,,5,41\n", {"mos": "r*"},
         [("a.png", 4.0, 1.0), ("b.png", 3.5, math.sqrt(4.5))]),
        ("a.png;4,5;5;3\nb.png;2;;\n", {"image": 0, "mos": (1, 2, 3), "separator": ";"},
         [("a.png", 12.5 / 3, 1.0408329997330663), ("b.png", 2.0, None)]),
        ("image,mos,sd\na.png,4.57,0.3\nb.png,3,0.5\n", {"std": "sd"},
         [("a.png", 4.57, 0.3), ("b.png", 3.0, 0.5)]),
        ("id,mos\n7,1\n12,2\n", {"image": "id", "name_pattern": "x/img{:04}.png"},
         [("x/img0007.png", 1.0, None), ("x/img0012.png", 2.0, None)]),
    ],
)  # fmt: skip
def test_texts(text: str, columns: dict[str, Any], rows: list, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    table = load_labels("csv", tmp_path, label_file="t.csv", columns=CsvColumns(**columns))
    for row, (image, mos, std) in zip(table.to_dict("records"), rows, strict=True):
        assert row["image"] == image
        assert row["mos"] == pytest.approx(mos)
        assert math.isnan(row["std"]) if std is None else row["std"] == pytest.approx(std)


NUMBERS = {"image": 0, "mos": 1}


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("a.png;3,5\nb.png;4,5\n", NUMBERS,
         r"columns\.separator=None: .*holds commas and semicolons: 'a\.png;3,5'; set it"),
        ("image;mos\na.png;1,234\nb.png;2\n", {},
         r"columns\.decimal=None: .*t\.csv:2: '1,234' may have a decimal comma or a thousands"),
        ("image;mos\na.png;1,5\nb.png;2.5\n", {}, r"t\.csv:2: mos='1,5' is not a number; write"),
        ("image,mos\na.png,3\n", NUMBERS, r"t\.csv:1: 1='mos' .*columns\.header=true"),
        ("image,score\na.png,3\n", {}, r"columns\.mos='mos': no such column; .* has image, score"),
        ("a.png,3\n", {"image": 0, "mos": 2}, r"columns\.mos=2: no such column; .* has 0, 1"),
        ("a.png,3\n", {"image": "image", "mos": 1, "header": False},
         r"columns\.header=False: 'image' is a name; give the columns by number"),
        ("a.png,3\nb.png\n", NUMBERS, r"t\.csv:2: 1 columns, expected 2"),
        ("image,r1,r2\na.png,,\n", {"mos": "r*"}, r"t\.csv:2: none of the 2 observers rated it"),
        ("image,r1,r2\na.png,1,x\n", {"mos": "r*"}, r"t\.csv:2: r2='x' is not a number"),
        ("image,r1,r2,sd\na.png,1,2,1\n", {"mos": "r*", "std": "sd"},
         r"columns\.std='sd': several columns of ratings have a deviation of their own"),
        ("image,mos,sd\na.png,1,-1\n", {"std": "sd"}, r"t\.csv:2: sd=-1 must not be negative"),
        ("image,mos\nx1,1\n", {"name_pattern": "{:04}.png"}, r"t\.csv:2: 'x1' is no number, as"),
        ("image,mos\n1,1\n", {"name_pattern": "image.png"}, r"name_pattern='image\.png': it must"),
        ("image,mos\n1,1\n", {"name_pattern": "{0.__class__}"}, r"name_pattern=.*: it must hold"),
        ("image,mos\n,1\n", {"name_pattern": "{}.png"}, r"t\.csv:2: empty image name ''"),
        ("image,mos\n../a,1\n", {"name_pattern": "x/{}.png"}, r"t\.csv:2: .* leaves the image"),
        ("image,mos\na.png,1\n", {"sheet": "MOS"}, r"columns\.sheet='MOS': t\.csv is no \.xlsx"),
    ],
)  # fmt: skip
def test_what_is_open_or_wrong_is_one_line(
    text: str, columns: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_labels("csv", tmp_path, label_file="t.csv", columns=CsvColumns(**columns))
    assert "\n" not in str(caught.value)


def test_sheets(tmp_path: Path) -> None:
    good = [["a note"], ["image", "mos", None], ["a.png", 1], ["b.png", 2]]
    write_book(tmp_path / "t.xlsx", Notes=[["made in 2026"]], MOS=good)
    with pytest.raises(
        ConfigError, match=r"columns\.sheet=None: .* has Notes, MOS; name the sheet"
    ):
        load_labels("csv", tmp_path, label_file="t.xlsx")
    with pytest.raises(ConfigError, match=r"columns\.sheet='mos': .* has Notes, MOS"):
        load_labels("csv", tmp_path, label_file="t.xlsx", columns=CsvColumns(sheet="mos"))
    with pytest.raises(DataError, match=r"t\.xlsx: no header row with image, mos"):
        load_labels("csv", tmp_path, label_file="t.xlsx", columns=CsvColumns(sheet="Notes"))
    table = load_labels("csv", tmp_path, label_file="t.xlsx", columns=CsvColumns(sheet="MOS"))
    assert table["image"].tolist() == ["a.png", "b.png"]
    (tmp_path / "t.xlsx").write_text("no spreadsheet")
    with pytest.raises(DataError, match=r"t\.xlsx: not readable as an \.xlsx spreadsheet"):
        load_labels("csv", tmp_path, label_file="t.xlsx")


def test_names_without_ending_or_subfolder(tmp_path: Path) -> None:
    for path in ("x/a.1.png", "x/b.JPG", "y/c.jpg", "x/b.txt"):
        place(tmp_path / path)
    (tmp_path / "t.csv").write_text("image,mos\na.1,1\nB,2\ny/c,3\n")
    table = opened(tmp_path, "dataset.label_file=t.csv").table
    assert table["image"].tolist() == ["x/a.1.png", "x/b.JPG", "y/c.jpg"]
    place(tmp_path / "y/b.png")
    with pytest.raises(DataError, match=r"'B' fits 2 files \(x/b\.JPG, y/b\.png\)"):
        opened(tmp_path, "dataset.label_file=t.csv")
    # A stated subfolder is meant: c.jpg is elsewhere.
    (tmp_path / "t.csv").write_text("image,mos\na.1,1\nx/c.jpg,3\n")
    with pytest.raises(DataError, match=r"1 of 2 labelled images cannot be used .*x/c\.jpg: no"):
        opened(tmp_path, "dataset.label_file=t.csv")


def test_one_folder_a_reference(tmp_path: Path) -> None:
    for path in ("Animal1/a.png", "Animal1/b.png", "Text/deep/c.png"):
        place(tmp_path / path)
    (tmp_path / "MOS.csv").write_text(
        "a.png,1\nb.png,2\nText/deep/c.png,3\nText/gone.png,4\nd.png,5\n"
    )
    command = (
        "dataset.label_file=MOS.csv", "dataset.columns.image=0", "dataset.columns.mos=1",
        "dataset.reference_folder=true", "dataset.on_bad_image=skip", "dataset.max_bad_share=0.5",
        "dataset.split.by=reference", "dataset.split.fractions=[0.5,0,0.5]",
    )  # fmt: skip
    table = opened(tmp_path, *command).table
    assert table["reference"].tolist() == ["Animal1", "Animal1", "Text/deep"]
    assert table.groupby("reference")["split"].nunique().tolist() == [1, 1]
    place(tmp_path / "d.png")
    with pytest.raises(
        DataError, match=r"reference_folder=True: d\.png lies in no folder of its own"
    ):
        opened(tmp_path, *command)
    (tmp_path / "MOS.csv").write_text("image,mos,content\na.png,1,x\nb.png,2,y\n")
    with pytest.raises(ConfigError, match=r"reference_folder=True: the labels of csv name refer"):
        opened(
            tmp_path, "dataset.label_file=MOS.csv", "dataset.columns.reference=content",
            "dataset.reference_folder=true",
        )  # fmt: skip


def test_a_name_of_ones_own_is_of_a_set_by_itself(tmp_path: Path) -> None:
    place(tmp_path / "a.png")
    place(tmp_path / "b.png")
    (tmp_path / "t.csv").write_text("image,mos\na.png,1\nb.png,2\n")
    command = ("dataset.label_file=t.csv", "dataset.alias=lab")
    assert opened(tmp_path, *command).name == "lab"
    config = load_data_config(["dataset=csv", f"dataset.root={tmp_path}", *command]).dataset
    assert isinstance(config, DatasetConfig)
    with pytest.raises(
        ConfigError, match=r"parts\.csv\.alias='lab': in a mixture csv is the set's"
    ):
        open_dataset(config, "dataset.parts.csv", "csv")


def test_further_columns_have_the_numbers_of_the_table(tmp_path: Path) -> None:
    rows = ("image;mos;sharpness;note", "a.png;4,57;3,25;1_000", "b.png;2,5;;x", "c.png;3,1;4;nan")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    for name in ("a.png", "b.png", "c.png"):
        place(tmp_path / name)
    found = opened(tmp_path, "dataset.columns.further=[sharpness,note]").table["further"].tolist()
    assert found == [
        {"sharpness": 3.25, "note": "1_000"}, {"note": "x"}, {"sharpness": 4.0, "note": "nan"},
    ]  # fmt: skip
