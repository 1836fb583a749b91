"""Bad label files: one line that names file and line, value, rule."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from scipy.io import savemat

from vqr1.config import DatasetConfig, SplitConfig
from vqr1.data.labelled_set import open_dataset
from vqr1.data.labels import load_labels
from vqr1.errors import ConfigError, DataError, UserError

HEADER = "dist_img,ref_img,dmos,var\n"
ROW = "I01_01_01.png,I01.png,4.57,0.25\n"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (HEADER + ROW + "I01_01_02.png,I01.png,4.57\n", 3, "3 columns, expected 4"),
        (HEADER + "I01_01_01.png,I01.png,good,0.25\n", 2, "dmos='good' is not a number"),
        (HEADER + "I01_01_01.png,I01.png,,0.25\n", 2, "dmos='' is not a number"),
        (HEADER + "I01_01_01.png,I01.png,nan,0.25\n", 2, "dmos='nan'; the score must be a finite"),
        (HEADER + "I01_01_01.png,I01.png,-inf,0.25\n", 2, "dmos='-inf'; the score must be a fin"),
        (HEADER + "I01_01_01.png,I01.png,4.5,-1\n", 2, "var='-1' must not be negative"),
        (HEADER + "I01_01_01.png,I01.png,45.7,0.25\n", 2, "far outside the range 1.0 to 4.93"),
        (HEADER + ROW + "\n" + ROW, 4, "was already listed at .*dmos.csv:2"),
        (HEADER + "../x.png,I01.png,4.57,0.25\n", 2, "leaves the image folder"),
        (HEADER + "a/../../x.png,I01.png,4.57,0.25\n", 2, "leaves the image folder"),
        (HEADER + "a\\..\\x.png,I01.png,4.57,0.25\n", 2, "leaves the image folder"),
        (HEADER + "/etc/x.png,I01.png,4.57,0.25\n", 2, "absolute path"),
        (HEADER + "C:\\x.png,I01.png,4.57,0.25\n", 2, "absolute path"),
        (HEADER + ",I01.png,4.57,0.25\n", 2, "empty image name"),
        ("image,ref_img,dmos,var\n" + ROW, 1, "no column 'dist_img'"),
        ("dist_img,ref_img,dmos,dmos,var\n" + ROW, 1, r"'dmos' stands 2 times \(columns 3, 4\)"),
        (HEADER + "I01_01_01.png,I01.png,4,57,0,25\n", 2, "6 columns, expected 4 as in the header"),
        (HEADER + 'I01_01_01.png,I01.png,"4,57",0.25\n', 2, "dmos='4,57' is not a number; write"),
        (HEADER + "I01_01_01.png,I01.png,1_000,0.25\n", 2, "dmos='1_000' is not a number"),
        (HEADER + ROW + 'I01_01_02.png,"I01.png,4.5,1\n' + ROW, 3, "not readable as CSV"),
        ("dist_img,ref_img,dmos,var,\n" + ROW[:-1] + ",7\n", 2, "'7' in column 5, which has no na"),
        (HEADER.replace(",", ";") + ROW.replace(",", ";"), 1, "separated by semicolons"),
    ],
)
def test_kadid_file_and_line(text: str, line: int, message: str, tmp_path: Path) -> None:
    path = tmp_path / "dmos.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        load_labels("kadid", tmp_path)
    assert f"{path}:{line}:" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "dmos.csv: the file is empty"),
        (b"\n \n", "dmos.csv: the file is empty"),
        (HEADER.encode(), "no labelled images"),
        (HEADER.encode() + b"a\n\xe9.png,I01.png,4.57,0.25\n", r"dmos.csv:3: byte 0xe9 is not UTF"),
        ((HEADER + ROW).encode("utf-16"), "dmos.csv:1: byte 0xff is not UTF-8"),
    ],
)
def test_file_as_a_whole(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "dmos.csv").write_bytes(data)
    with pytest.raises(DataError, match=message):
        load_labels("kadid", tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "text", "message"),
    [
        ("tid", "mos_with_names.txt", "5.5 I01_01_1.bmp extra\n", r":1: 3 columns, expected 2"),
        ("tid", "mos_with_names.txt", "5.5 image.bmp\n", r":1: 'image.bmp' is not named"),
        ("koniq", "koniq10k_distributions_sets.csv",
         "image_name,MOS,SD,set\na.jpg,50,0.5,holdout\n", r":2: unknown split 'holdout'"),
        ("csiq", "csiq_label.txt", "a.png 0.5\n", r":1: 'a.png' is not named as in CSIQ"),
        ("spaq", "MOS and Image attribute scores.xlsx", "no spreadsheet", "not readable as an"),
        ("live", "dmos_realigned.mat", "no matrix", "not readable as a MATLAB file"),
        ("sriqa", "SRIQA-Bench_test_all.txt", "a.png b_c.png\n", ":1: 2 columns, expected 3"),
        ("sriqa", "SRIQA-Bench_test_all.txt", "a.png b.png 3\n", ":1: 'b.png' names no method"),
        ("agiqa3k", "data.csv", "name,mos_quality,std_quality\na_b.jpg,inf,0\n", ":2: mos_quality"),
    ],
)  # fmt: skip
def test_other_formats(name: str, file: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        load_labels(name, tmp_path)
    assert file in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[" * 100_000, ":1: JSON that cannot be read"),
        ('{"id": ' + "9" * 5000 + "}", ":1: JSON that cannot be read"),
        ('{"dataset_name": "A", "image": ["\\ud800.png"], "conversations": '
         '[{"from": "gpt", "value": 3}]}', ":1: image name .* holds half a character"),
        ('{"dataset_name": "A", "image": ["a.png"], "conversations": '
         '[{"from": "gpt", "value": 3, "value": 4}]}', ":1: .*the key 'value' stands twice"),
        ('{"dataset_name": "A", "image": ["a.png"], "conversations": '
         '[{"from": "gpt", "value": Infinity}]}', ":1: .*Infinity is no JSON number"),
        ('{"dataset_name": "A", "image": ["a.png"], "conversations": '
         '[{"from": "gpt", "value": "1_0"}]}', ":1: score '1_0' is not a number"),
    ],
)  # fmt: skip
def test_json_that_breaks_readers(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(line)
    with pytest.raises(DataError, match=message):
        load_labels("jsonl", tmp_path, label_file="a.jsonl")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["Image name", "MOS", "MOS"], ["a.jpg", 1, 2]], "xlsx:1: column 'MOS' stands 2 times"),
        ([["Image name", "MOS"], ["a.jpg", 1], ["b.jpg"]], "xlsx:3: no MOS in this row"),
        ([["Image name", "MOS"], [None, 1]], "xlsx:2: no Image name in this row"),
        ([["Image name", "MOS"], ["a.jpg", "4,5"]], "xlsx:2: MOS='4,5' is not a number"),
        ([["Image name", "MOS"], ["a.jpg", True]], "xlsx:2: MOS=True is not a number"),
    ],
)
def test_spreadsheets(rows: list[list[object]], message: str, tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    assert book.active is not None
    for row in rows:
        book.active.append(row)
    book.save(tmp_path / "MOS and Image attribute scores.xlsx")
    with pytest.raises(DataError, match=message):
        load_labels("spaq", tmp_path)


@pytest.mark.medium
@pytest.mark.parametrize("damage", ["header", "tail"])
def test_damaged_matlab_file_ends_with_a_message(damage: str, tmp_path: Path) -> None:
    stream = io.BytesIO()
    names = np.array(["a.bmp"] * 9, dtype=object)
    savemat(stream, {"AllImages_release": names}, do_compression=True)
    whole = stream.getvalue()
    broken = whole[:90] + b"\xff" * 60 + whole[150:] if damage == "header" else whole[:-20]
    (tmp_path / "AllImages_release.mat").write_bytes(broken)
    with pytest.raises(DataError, match=r"AllImages_release\.mat: not readable as a MATLAB file"):
        load_labels("livec", tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("kadit", {}, r"dataset.name='kadit': no such format; use one of agiqa3k"),
        ("json", {}, r"dataset.name='json': its FORMAT is no vqr1.data.labels.LabelFormat"),
        ("own.lab", {}, r"dataset.name='own.lab': no such format (No module named 'own'); use"),
        ("kadid", {"lower_is_better": True}, r"dataset.lower_is_better=True"),
        ("kadid", {"label_file": "x.csv"}, r"dataset.label_file='x.csv': no such file"),
        ("csv", {}, r"dataset.label_file=None: name the label file"),
        ("biq2021", {"label_file": "x.csv"}, r"dataset.label_file: biq2021 has two label files"),
    ],
)
def test_wrong_keys(name: str, options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(message).replace(r"\.", ".")):
        load_labels(name, tmp_path, **options)


def test_missing_root_names_its_key(tmp_path: Path) -> None:
    config = DatasetConfig(name="koniq", root=None, split=SplitConfig(by="official"))
    with pytest.raises(ConfigError, match=r"^dataset\.parts\.koniq\.root=None: set it"):
        open_dataset(config, "dataset.parts.koniq")
    config.root = str(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"dataset\.root='.*nowhere': no such folder"):
        open_dataset(config)
    config.root = str(tmp_path)
    with pytest.raises(DataError, match=r"dataset\.root=.*none of koniq10k_distributions_sets"):
        open_dataset(config)


def test_missing_images_are_counted_and_ten_shown(make_kadid: Callable[..., Path]) -> None:
    root = make_kadid([1, 2, 3])
    for image in sorted((root / "images").iterdir())[:12]:
        image.unlink()
    config = DatasetConfig(name="kadid", root=str(root), split=SplitConfig(by="none"))
    with pytest.raises(DataError) as caught:
        open_dataset(config)
    message = str(caught.value)
    assert message.startswith("12 of 15 labelled images cannot be used")
    assert message.count("no such file") == 10
    assert "and 2 more" in message
    assert "dataset.on_bad_image=skip" in message


def test_skip_counts_and_refuses_above_its_share(make_kadid: Callable[..., Path]) -> None:
    root = make_kadid([1, 2])
    (root / "images" / "I01_01_01.png").unlink()
    (root / "images" / "I01_01_02.png").write_bytes(b"")
    split = SplitConfig(by="none")
    config = DatasetConfig(
        name="kadid", root=str(root), split=split, on_bad_image="skip", max_bad_share=0.2
    )
    labelled = open_dataset(config)
    assert labelled.skipped == 2
    assert labelled.bad_images[1] == "I01_01_02.png: is empty (0 bytes)"
    assert len(labelled.table) == 8
    # The excluded best image still sets the scale: 4.89 of 4.89 would be 5, and 3.49 is the best
    # one left. (3.49 - 2.08) / (4.89 - 2.08) * 4 + 1 = 3.00712
    assert labelled.table["mos"].iloc[0] == 3.49
    best_left = labelled.table["mos_scaled"].max()
    assert best_left == pytest.approx((4.88 - 2.08) / (4.89 - 2.08) * 4 + 1)
    config.max_bad_share = 0.19
    with pytest.raises(DataError, match=r"20.0%, above dataset.max_bad_share=0.19"):
        open_dataset(config)


def test_equal_scores_cannot_be_ranked(make_csv: Callable[..., DatasetConfig]) -> None:
    config = make_csv(2)
    (Path(str(config.root)) / "labels.csv").write_text("image,mos\n000.png,3\n001.png,3\n")
    with pytest.raises(DataError, match=r"all 2 scores are 3\.0; nothing can be ranked"):
        open_dataset(config)


def test_user_errors_share_their_base() -> None:
    assert issubclass(DataError, UserError)
    assert issubclass(ConfigError, UserError)
