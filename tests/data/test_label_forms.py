"""pyiqa's label files give the rows of the official ones, beside them or in place of them.

Miniatures have the columns of pyiqa's documentation and writing scripts; expected rows are written
by hand.
"""

from __future__ import annotations

import csv
import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from vqr1.config import SplitConfig
from vqr1.data.labels import load_labels
from vqr1.data.labels.koniq import FORMAT as KONIQ
from vqr1.data.splits import assign_splits
from vqr1.errors import ConfigError, DataError

KONIQ_META = "meta_info_KonIQ10kDataset.csv"
KONIQ_OFFICIAL = "koniq10k_distributions_sets.csv"


@pytest.mark.parametrize(
    ("name", "file", "text", "expected"),
    [
        ("koniq", KONIQ_META,
         "img_name,mos,std,split,c1,c2,c3,c4,c5,c_total\n"
         "10.jpg,63.7,0.61,training,0,0,0.3,0.6,0.1,98\n"
         "11.jpg,40.25,0.7,test,0,0.5,0.4,0.1,0,100\n",
         [("10.jpg", 63.7, 0.61, None, "train", None), ("11.jpg", 40.25, 0.7, None, "test", None)]),
        ("livec", "meta_info_LIVEChallengeDataset.csv",
         "img_name,mos,std,ratio802_seed123_split_01\n"
         "t1.bmp,64.6,14.3,train\n3.bmp,63.96,17.9,val\nImages/4.bmp,25.3,15.0,train\n",
         [("3.bmp", 63.96, 17.9, None, None, None), ("4.bmp", 25.3, 15.0, None, None, None)]),
        ("tid", "meta_info_TID2013Dataset.csv",
         "ref_name,dist_name,mos,std\nI01.BMP,I01_01_1.bmp,5.51429,0.13013\n"
         "i25.bmp,i25_24_5.bmp,2.5,0.2\n",
         [("I01_01_1.bmp", 5.51429, 0.13013, "I01", None, "additive gaussian noise"),
          ("i25_24_5.bmp", 2.5, 0.2, "I25", None, "sparse sampling and reconstruction")]),
        ("kadid", "meta_info_KADID10kDataset.csv",
         "ref_name,dist_name,dmos,std\nI01.png,I01_01_01.png,4.57,0.496\n"
         "I07.png,I07_11_05.png,1.5,0.3\n",
         [("I01_01_01.png", 4.57, 0.496, "I01.png", "train", "gaussian blur"),
          ("I07_11_05.png", 1.5, 0.3, "I07.png", "val", "white noise")]),
        ("csiq", "meta_info_CSIQDataset.csv",  # lower is better: 0 + 1 - dmos
         "ref_name,dist_name,dmos\n1600.png,awgn/1600.AWGN.1.png,0.062\n"
         "boston.png,boston.jpeg2000.5.png,0.75\n",
         [("1600.AWGN.1.png", 0.938, None, "1600", None, "noise"),
          ("boston.jpeg2000.5.png", 0.25, None, "boston", None, "jpeg 2000")]),
        ("live", "meta_info_LIVEIQADataset.csv",  # lower is better: -2.64 + 111.77 - mos
         "ref_name,dist_name,mos\nrefimgs/studentsculpture.bmp,jp2k/img2.bmp,45.13\n",
         [("jp2k/img2.bmp", 64.0, None, "studentsculpture.bmp", None, "jp2k")]),
        ("pipal", "meta_info_PIPALDataset.csv",
         "hq_name,dist_name,elo_score\nA0001.bmp,A0001_00_03.bmp,1448.96\n",
         [("A0001_00_03.bmp", 1448.96, None, "A0001", None, "type 00")]),
        ("spaq", "meta_info_SPAQDataset.csv",
         # As in pyiqa's own: EXIF data have a Brightness too.
         "Image name,MOS,Brightness,Colorfulness,Contrast,Noisiness,Sharpness,ISO,Brightness\n"
         "00001.jpg,42.5,50,40,60,30,20,200,-1.21\n",
         [("00001.jpg", 42.5, None, None, None, None)]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("folder", [".", "meta_info"])
def test_pyiqas_file_alone(
    name: str, file: str, text: str, expected: list, folder: str, tmp_path: Path
) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / file).write_text(text)
    table = load_labels(name, tmp_path)
    columns = ("image", "mos", "std", "reference", "split", "distortion")
    for row, wanted in zip(table.to_dict("records"), expected, strict=True):
        for column, value in zip(columns, wanted, strict=True):
            if column == "std" and value is None:
                assert np.isnan(row["std"])
            else:
                assert row[column] == (pytest.approx(value) if column == "mos" else value)
    assert table.attrs["form"] == f"pyiqa ({file})"


def test_named_by_hand_a_file_is_known_by_its_header(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("img_name,mos,std,split\n1.jpg,50,0.5,test\n")
    table = load_labels("koniq", tmp_path, label_file="mine.csv")
    assert (table["mos"].tolist(), table.attrs["form"]) == ([50.0], "pyiqa (mine.csv)")
    (tmp_path / "mine.csv").write_text("image_name,MOS,SD,set\n1.jpg,51,0.5,test\n")
    table = load_labels("koniq", tmp_path, label_file="mine.csv")
    assert (table["mos"].tolist(), table.attrs["form"]) == ([51.0], "official")


def both_koniq_forms(root: Path, meta: str) -> None:
    (root / KONIQ_OFFICIAL).write_text(
        "image_name,MOS,SD,set\n1.jpg,50,0.5,training\n2.jpg,60,0.6,test\n"
    )
    (root / KONIQ_META).write_text(meta)


def test_two_forms_that_agree(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    both_koniq_forms(
        tmp_path,
        "img_name,mos,std,split,ratio802_seed123_split_01\n"
        "2.jpg,60.001,0.6,test,train\n1.jpg,50,0.5,training,val\n",
    )
    with caplog.at_level(logging.INFO, "vqr1.data.labels"):
        table = load_labels("koniq", tmp_path, key="dataset.parts.koniq")
    assert table["mos"].tolist() == [50.0, 60.0]  # the official digits, in the official order
    assert [row["ratio802_seed123_split_01"] for row in table["splits"]] == ["val", "train"]
    form = f"official, with {KONIQ_META} beside it (they agree)"
    assert table.attrs["form"] == form
    assert caplog.messages == [f"dataset.parts.koniq: label form: {form}"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1.jpg,50,0.5,train\n2.jpg,61,0.6,test\n",
         rf"{KONIQ_META}:3: '2.jpg' has score 61 here and 60 at .*{KONIQ_OFFICIAL}:3; keep one"),
        ("1.jpg,50,0.5,test\n", rf"{KONIQ_META}:2: '1.jpg' is in split test here and in train at"),
        ("3.jpg,50,0.5,test\n", rf"{KONIQ_META}: names none of the images of the other"),
        ("1.jpg,50,0.5,holdout\n", rf"{KONIQ_META}:2: unknown split 'holdout'"),
        ("1.jpg,50,-1,test\n", rf"{KONIQ_META}:2: std='-1' must not be negative"),
    ],
)  # fmt: skip
def test_two_forms_that_contradict(rows: str, message: str, tmp_path: Path) -> None:
    both_koniq_forms(tmp_path, "img_name,mos,std,split\n" + rows)
    with pytest.raises(DataError, match=message):
        load_labels("koniq", tmp_path)
    if "here and" in message:  # the remedy that the message names
        for file, mos in ((KONIQ_OFFICIAL, 2), (KONIQ_META, len(rows.splitlines()))):
            assert len(load_labels("koniq", tmp_path, label_file=file)) == mos


@pytest.mark.medium
def test_lives_file_is_compared_with_the_scores_that_it_was_made_from(tmp_path: Path) -> None:
    originals = np.ones(982)
    originals[[1, 230]] = 0  # jp2k/img2.bmp and jpeg/img4.bmp
    names = np.empty(982, dtype=object)
    names[:] = "house.bmp"
    savemat(tmp_path / "refnames_all.mat", {"refnames_all": names})
    for file, variable, score in (("dmos_realigned", "dmos_new", 40.0), ("dmos", "dmos", 50.0)):
        values = {variable: np.full(982, score), "dmos_std": np.ones(982), "orgs": originals}
        savemat(tmp_path / f"{file}.mat", values)
    (tmp_path / "meta_info_LIVEIQADataset.csv").write_text(
        "ref_name,dist_name,mos\nrefimgs/house.bmp,jp2k/img2.bmp,50\n"
        "refimgs/house.bmp,jpeg/img4.bmp,50\n"
    )
    table = load_labels("live", tmp_path)
    # The realigned scores: -2.64 + 111.77 - 40
    assert table["mos"].tolist() == pytest.approx([69.13, 69.13])
    assert table.attrs["form"].endswith("(they agree)")
    (tmp_path / "dmos.mat").unlink()
    assert "another version" in load_labels("live", tmp_path).attrs["form"]


def test_missing_labels_name_both_forms(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"none of {KONIQ_OFFICIAL} is there.*{KONIQ_META}"):
        load_labels("koniq", tmp_path)


def test_pickled_splits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "koniq10k_official.pkl").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    split = SplitConfig(by="files", files={"train": "koniq10k_official.pkl"})
    table = pd.DataFrame({"image": ["1.jpg"], "reference": [None], "split": [None]})
    table["own_images"] = [("1.jpg",)]
    with pytest.raises(ConfigError, match=r"split\.files\.train='koniq10k_official\.pkl': pickles"):
        assign_splits(table, split, tmp_path)
    with pytest.raises(ConfigError, match=re.escape("take the CSV form")):
        load_labels("koniq", tmp_path, label_file="koniq10k_official.pkl")


@pytest.mark.medium
def test_both_forms_of_all_of_koniq_agree(tmp_path: Path, shared: Path) -> None:
    official = shared / "labels" / "koniq" / KONIQ_OFFICIAL
    with official.open(newline="") as file, (tmp_path / KONIQ_META).open("w", newline="") as meta:
        rows = csv.reader(file)
        next(rows)
        writer = csv.writer(meta)
        writer.writerow(
            ["img_name", "mos", "std", "split", "c1", "c2", "c3", "c4", "c5", "c_total"]
        )
        # Official columns: image_name, c1 to c5, c_total, MOS, SD, set.
        writer.writerows([row[0], *row[7:10], *row[1:7]] for row in rows)
    alone = load_labels("koniq", tmp_path)
    wanted = load_labels("koniq", official.parent)
    columns = ["image", "mos", "std", "split"]
    pd.testing.assert_frame_equal(alone[columns], wanted[columns])
    assert len(alone) == KONIQ.images
    (tmp_path / KONIQ_OFFICIAL).write_bytes(official.read_bytes())
    assert "they agree" in load_labels("koniq", tmp_path).attrs["form"]
