"""Miniatures in the exact layout of further sets open as hand-written rows.

The layouts are those of the owners' repositories (PIQ23, PaQ-2-PiQ, AIGCIQA2023) and pyiqa's copies
(KonIQ++), else of loaders in public code (CID2013, GFIQA-20k, UHD-IQA); scores are invented where
the files are not public.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pandas as pd
import pytest
from scipy.io import savemat

from vqr1.config import DatasetConfig, SplitConfig
from vqr1.data.download.catalogue import hosting
from vqr1.data.labelled_set import open_dataset
from vqr1.data.labels import label_format, load_labels
from vqr1.data.ranking_batches import RankingPlan
from vqr1.errors import ConfigError, DataError

PIQ_HEADER = (
    "IMAGE PATH,JOD,JOD STD,CI LOW,CI HIGH,CI RANGE,QUALITY LEVEL,CLUSTER,TOTAL COMPARISONS,"
    "IMAGE,SCENE,ATTRIBUTE,SCENE IDX,CONDITION"
)
DEFECTS = "artifacts,blur,contrast,colors,other,degraded.amount"


def write(root: Path, files: dict[str, str], images: tuple[str, ...] = ()) -> Path:
    """Label files, and images that exist (nothing here decodes them)."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    for name in images:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"\xff\xd8")
    return root


def opened(name: str, root: Path, by: str = "none", **split: Any) -> pd.DataFrame:
    config = DatasetConfig(name=name, root=str(root), split=SplitConfig(by=by, **split))
    return open_dataset(config).table


def rows(table: pd.DataFrame, *columns: str) -> list[tuple]:
    plain = table[list(columns)].astype(object).where(table[list(columns)].notna(), None)
    return list(plain.itertuples(index=False, name=None))


def piq(image: str, scene: str, jod: float, std: float) -> str:
    attribute, name = image.split("\\")
    return (
        f"{image},{jod},{std},0,0,0,0,-1.0,143.0,{name},{scene},{attribute},"
        f"{scene.rpartition('_')[2]},{scene.partition('_')[0]}"
    )


PIQ_ROWS = [
    piq("Overall\\66_Indoor_Scene_0.jpg", "Indoor_Scene_0", -3.72, 0.39),
    piq("Overall\\31_Indoor_Scene_0.tiff", "Indoor_Scene_0", -1.74, 0.44),
    piq("Overall\\122_Indoor_Scene_1.JPG", "Indoor_Scene_1", -4.11, 0.8),
    piq("Overall\\1200_Indoor_Scene_12.jpg", "Indoor_Scene_12", 2.5, 0.5),
]
PIQ_IMAGES = tuple(row.split(",")[0].replace("\\", "/") for row in PIQ_ROWS)
DEVICES = (
    "IMAGE,SPLIT\n66_Indoor_Scene_0.jpg,Test\n31_Indoor_Scene_0.tiff,Train\n"
    "122_Indoor_Scene_1.JPG,Train\n1200_Indoor_Scene_12.jpg,Train\n"
)


def test_piq23(tmp_path: Path) -> None:
    write(tmp_path, {"Scores_Overall.csv": "\n".join([PIQ_HEADER, *PIQ_ROWS]) + "\n"}, PIQ_IMAGES)
    table = opened("piq23", tmp_path, "protocol", protocol="scene", fractions=(1.0, 0.0, 0.0))
    assert rows(table, "image", "mos", "std", "reference", "split") == [
        ("Overall/66_Indoor_Scene_0.jpg", -3.72, 0.39, "Indoor_Scene_0", "train"),
        ("Overall/31_Indoor_Scene_0.tiff", -1.74, 0.44, "Indoor_Scene_0", "train"),
        ("Overall/122_Indoor_Scene_1.JPG", -4.11, 0.8, "Indoor_Scene_1", "test"),
        ("Overall/1200_Indoor_Scene_12.jpg", 2.5, 0.5, "Indoor_Scene_12", "train"),
    ]
    with pytest.raises(ConfigError, match=r"protocol='device': piq23 has no such split; it has sc"):
        opened("piq23", tmp_path, "protocol", protocol="device")


def test_piq23s_split_by_device(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = "\n".join([PIQ_HEADER, *PIQ_ROWS]) + "\n"
    write(tmp_path, {"Scores_Overall.csv": labels, "Device Split.csv": DEVICES}, PIQ_IMAGES)
    table = opened("piq23", tmp_path, "protocol", protocol="device", fractions=(1.0, 0.0, 0.0))
    assert table["split"].tolist() == ["test", "train", "train", "train"]
    assert "images of 1 references lie in more than one split" in caplog.text
    (tmp_path / "Device Split.csv").write_text(DEVICES.replace("122_", "123_"))
    with pytest.raises(DataError, match=r"Scores_Overall.csv:4: 'Overall/122_Indoor_Scene_1.JPG' "):
        load_labels("piq23", tmp_path)


def test_piq23s_test_scenes_are_the_authors() -> None:
    # `Scene Split.csv`: images of each test scene, 1,486 of 5,116.
    from vqr1.data.labels.piq23 import _TEST_SCENES

    sizes = {
        10: 125, 11: 94, 1: 124, 5: 50, 16: 87, 17: 102, 20: 125, 28: 112, 30: 114, 31: 112,
        33: 119, 34: 45, 43: 125, 45: 78, 46: 74,
    }  # fmt: skip
    assert sum(sizes.values()) == 1486
    assert set(sizes) == _TEST_SCENES


def test_piq23_as_pyiqa_has_it(tmp_path: Path) -> None:
    # One file for three attributes; its split by scene takes Indoor_Scene_12 for Indoor_Scene_1.
    header = f"{PIQ_HEADER},DeviceSplit,SceneSplit\n"
    text = header + "".join(
        f"{row.replace(chr(92), '/')},{device},{scene}\n"
        for row, device, scene in (
            (PIQ_ROWS[0].replace("Overall", "Details"), "Test", "Train"),
            (PIQ_ROWS[0], "Test", "Train"),
            (PIQ_ROWS[3], "Train", "Test"),
        )
    )
    table = load_labels("piq23", write(tmp_path, {"meta_info_PIQDataset.csv": text}))
    assert rows(table, "image", "mos", "split") == [
        ("Overall/66_Indoor_Scene_0.jpg", -3.72, "train"),
        ("Overall/1200_Indoor_Scene_12.jpg", 2.5, "train"),
    ]
    assert [row["device"] for row in table["splits"]] == ["test", "train"]


def test_piq23s_other_attributes(tmp_path: Path) -> None:
    row = piq("Details\\7_Night_Scene_22.jpg", "Night_Scene_22", 1.5, 0.3)
    write(tmp_path, {"Scores_Details.csv": f"{PIQ_HEADER}\n{row}\n"})
    table = load_labels("piq23", tmp_path, label_file="Scores_Details.csv")
    assert rows(table, "image", "reference") == [("Details/7_Night_Scene_22.jpg", "Night_Scene_22")]


FLIVE = {
    "database/labels_image.csv": "name,mos\nvoc_emotic_ava/AVA__12958.jpg,74.13506446\n"
    "blur_dataset/motion0091.jpg,0.0\nEE371R/rq59.jpg,65.5\n",
    "database/labels640.csv": "mos_patch_1,name_patch,mos_image,name_image\n"
    "79.4,patches/rq59.jpg,65.5,EE371R/rq59.jpg\n",
    "database/labels<=640_padded.csv": "name_image,mos_image,is_valid\n"
    "voc_emotic_ava/AVA__12958.jpg,74.1,False\nblur_dataset/motion0091.jpg,0.0,True\n",
    "database/labels_patch.csv": "name,mos\npatches/rq59.jpg_patch_1.jpg,50.5\n"
    "patches/AVA__12958.jpg_patch_3.jpg,80.25\n",
}


def test_flive(tmp_path: Path) -> None:
    images = ("AVA__12958.jpg", "motion0091.jpg", "rq59.jpg")
    folders = ("voc_emotic_ava", "blur_dataset", "EE371R")
    names = tuple(f"{folder}/{image}" for folder, image in zip(folders, images, strict=True))
    write(tmp_path, FLIVE, tuple(f"database/{name}" for name in names))
    table = opened("flive", tmp_path, "official")
    assert rows(table, "image", "mos", "reference", "split") == [
        (names[0], 74.13506446, None, "train"),
        (names[1], 0.0, None, "val"),
        (names[2], 65.5, None, "test"),
    ]
    patches = load_labels("flive", tmp_path, label_file="database/labels_patch.csv")
    assert rows(patches, "image", "mos", "reference", "split") == [
        ("patches/rq59.jpg_patch_1.jpg", 50.5, "rq59.jpg", "test"),
        ("patches/AVA__12958.jpg_patch_3.jpg", 80.25, "AVA__12958.jpg", "train"),
    ]


def test_flive_as_pyiqa_has_it(tmp_path: Path) -> None:
    text = (
        "img_name/patch_name,mos,split\nvoc_emotic_ava/AVA__12958.jpg,74.13506446,0\n"
        "blur_dataset/motion0091.jpg,0.0,1\nEE371R/rq59.jpg,65.5,2\n"
        "patches/rq59.jpg_patch_1.jpg,50.5,2\n"
    )
    write(tmp_path, {"meta_info_FLIVEDataset.csv": text})
    assert rows(load_labels("flive", tmp_path), "mos", "split") == [
        (74.13506446, "train"), (0.0, "val"), (65.5, "test"),
    ]  # fmt: skip
    write(tmp_path, FLIVE)
    assert load_labels("flive", tmp_path).attrs["form"].endswith("(they agree)")


def test_cid2013(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.title = "Info"
    sheet = book.create_sheet("CID2013 MOS")
    sheet.append(["Source_ID", "Image set specific  MOS", "Realigned MOS", "Sharpness"])
    sheet.append(["IS_I_C01_D01", 61.5, 55.25, 60])
    sheet.append(["IS_VI_C02_D13", 20.5, 31.0, 25])
    book.save(tmp_path / "CID2013 data - version 12112014.xlsx")
    write(tmp_path, {}, ("IS1/co1/IS_I_C01_D01.jpg", "IS6/co2/IS_VI_C02_D13.jpg"))
    assert rows(opened("cid2013", tmp_path), "image", "mos", "reference", "split") == [
        ("IS1/co1/IS_I_C01_D01.jpg", 55.25, "C01", "test"),
        ("IS6/co2/IS_VI_C02_D13.jpg", 31.0, "C02", "test"),
    ]
    sheet.append(["IS_VI_D13", 20.5, 31.0, 25])
    book.save(tmp_path / "CID2013 data - version 12112014.xlsx")
    with pytest.raises(DataError, match=r"\.xlsx:4: Source_ID='IS_VI_D13' is not named as in CID"):
        load_labels("cid2013", tmp_path)


@pytest.mark.parametrize(
    "file", ["mos_rating.csv", "mos_val_rating.csv", "meta_info_GFIQADataset.csv"]
)
def test_gfiqa(file: str, tmp_path: Path) -> None:
    write(
        tmp_path, {file: "img_name,mos\n1.png,0.75\n2.png,0.125\n"}, ("image/1.png", "image/2.png")
    )
    assert rows(opened("gfiqa", tmp_path), "image", "mos") == [("1.png", 0.75), ("2.png", 0.125)]
    (tmp_path / file).write_text("name,score\n1.png,0.75\n")
    with pytest.raises(
        DataError, match=rf"{file}:1: no column 'img_name', 'mos'; the file has name"
    ):
        load_labels("gfiqa", tmp_path)


def test_uhdiqa(tmp_path: Path) -> None:
    labels = (
        'image_name,quality_mos,set,subset,user_name\n12.jpg,0.625,training,,"a, b"\n'
        "7.jpg,0.5,validation,,c\n3.jpg,0.25,test,x,d\n"
    )
    images = ("training/12.jpg", "validation/7.jpg", "test/3.jpg")
    write(tmp_path, {"uhd-iqa-metadata.csv": labels}, images)
    assert rows(opened("uhdiqa", tmp_path, "official"), "image", "mos", "split") == [
        (images[0], 0.625, "train"), (images[1], 0.5, "val"), (images[2], 0.25, "test"),
    ]  # fmt: skip


@pytest.mark.parametrize("file", ["koniq++database.csv", "meta_info_KonIQ10k++Dataset.csv"])
def test_koniqpp(file: str, tmp_path: Path) -> None:
    text = (
        f'"filename","qmos","sd","votes",{DEFECTS}\n'
        '"826373.jpg",3.953125,1.03,64,0.046875,0.0625,0.234375,0.109375,0,0.0875\n'
        '"2017266.jpg",3.5,0.811,59,0.25,0.5,0.125,0.0625,0,0.1875\n'
    )
    write(tmp_path, {file: text}, ("1024x768/826373.jpg", "1024x768/2017266.jpg"))
    table = opened("koniqpp", tmp_path)
    assert rows(table, "image", "mos", "std", "split") == [
        ("826373.jpg", 3.953125, 1.03, "test"), ("2017266.jpg", 3.5, 0.811, "test"),
    ]  # fmt: skip
    assert table["further"].iloc[1] == {
        "artifacts": 0.25, "blur": 0.5, "contrast": 0.125, "colors": 0.0625, "other": 0.0,
        "degraded.amount": 0.1875,
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"by='official': this set's labels hold no split"):
        opened("koniqpp", tmp_path, "official")
    koniq = "image_name,MOS,SD,set\n2017266.jpg,50,0.5,validation\n826373.jpg,60,0.6,training\n"
    write(tmp_path, {"koniq10k_distributions_sets.csv": koniq})
    assert opened("koniqpp", tmp_path, "official")["split"].tolist() == ["train", "val"]


@pytest.mark.medium
def test_aigciqa2023_in_three_forms(tmp_path: Path) -> None:
    # Image 405 is the second of generator 2's second prompt: 405 = 400 + 1 * 4 + 1.
    columns = ("image", "mos", "reference", "distortion")
    expected = [
        ("0.png", 60.16417843, "prompt 1", "generator 1"),
        ("405.png", 44.5, "prompt 2", "generator 2"),
    ]
    (tmp_path / "mat" / "DATA" / "MOS").mkdir(parents=True)
    for index, pair in enumerate([(60.16417843, 44.5), (47.25, 40), (60, 41)], start=1):
        scores = np.linspace(30, 70, 2400)
        scores[[0, 405]] = pair
        savemat(tmp_path / f"mat/DATA/MOS/mosz{index}.mat", {"MOSz": scores[:, None]})
    table = load_labels("aigciqa2023", tmp_path / "mat")
    assert [table[column].nunique() for column in columns[2:]] == [100, 6]
    assert (len(table), rows(table.iloc[[0, 405]], *columns)) == (2400, expected)
    text = (
        ",name,prompt,style,class,quality_mos,authenticity_mos,correspondence_mos,quality_std\n"
        '0,0.png,"a corgi, sitting",Basic,Animals,60.16417843,47.25,60,0.885\n'
        "1,405.png,a girl,Basic,People,44.5,40,41,1.2\n"
    )
    images = ("allimg/0.png", "Image/allimg/0.png", "Image/allimg/405.png")
    csv = write(tmp_path / "csv", {"AIGCIQA2023.csv": text}, images)
    assert rows(opened("aigciqa2023", csv), *columns) == expected
    entries = [
        {"img": "0.png", "moz1": 60.16417843, "moz2": 47.25, "moz3": 60},
        {"img": "405.png", "moz1": 44.5, "moz2": 40, "moz3": 41},
    ]
    hub = write(tmp_path / "hub", {"AIGIQA2023.json": json.dumps([*entries, entries[0]])})
    assert rows(load_labels("aigciqa2023", hub), *columns) == expected
    for root in (tmp_path / "mat", csv, hub):
        table = load_labels("aigciqa2023", root, score="authenticity")
        other = table.iloc[[0, -1 if len(table) == 2 else 405]]
        assert other["mos"].tolist() == [47.25, 40.0]
        assert [row["correspondence"] for row in other["further"]] == [60.0, 41.0]
    write(hub, {"AIGIQA2023.json": json.dumps([*entries, {"img": "0.png", "moz1": 1}])})
    with pytest.raises(DataError, match=r"json:3: '0.png' has other scores than at .*json:1"):
        load_labels("aigciqa2023", hub)


SPAQ_TEXTS = {
    "SPAQ_mos_std.txt": "00001.jpg 48.86 17.5\n00002.jpg 62.5 23.7\n00003.jpg 77.25 0\n",
    # (62.5 - 48.86) / (77.25 - 48.86) * 4 + 1
    "SPAQ_test_all.txt": "00001.jpg 1 17.5\n00002.jpg 2.92180345 23.7\n00003.jpg 5 0\n",
}


def spaq_sheet(path: Path, header: list[str], *sheet_rows: list) -> None:
    book = openpyxl.Workbook()
    for row in (header, *sheet_rows):
        book.active.append(row)
    book.save(path)


@pytest.mark.parametrize("form", [*SPAQ_TEXTS, "SPAQ_mos_std.xlsx"])
def test_spaqs_standard_deviations(form: str, tmp_path: Path) -> None:
    names = ["00001.jpg", "00002.jpg", "00003.jpg"]
    scores, deviations = [48.86, 62.5, 77.25], [17.5, 23.7, 0.0]
    spaq_sheet(
        tmp_path / "MOS and Image attribute scores.xlsx", ["Image name", "MOS"],
        *map(list, zip(names, scores, strict=True)),
    )  # fmt: skip
    assert load_labels("spaq", tmp_path)["std"].isna().all()
    if form in SPAQ_TEXTS:
        (tmp_path / form).write_text(SPAQ_TEXTS[form])
    else:
        listed = [list(row) for row in zip(names, scores, deviations, strict=True)]
        spaq_sheet(tmp_path / form, ["Image name", "MOS", "MOS_std"], *listed[::-1])
    table = load_labels("spaq", tmp_path)
    assert table["std"].tolist() == deviations
    assert table["mos"].tolist() == scores
    assert load_labels("spaq", tmp_path, score="quality")["std"].tolist() == deviations


def test_lists_of_other_deviations_are_refused(tmp_path: Path) -> None:
    spaq_sheet(
        tmp_path / "MOS and Image attribute scores.xlsx", ["Image name", "MOS"],
        ["00001.jpg", 48.86], ["00002.jpg", 62.5],
    )  # fmt: skip
    text = tmp_path / "SPAQ_mos_std.txt"
    text.write_text("00001.jpg 48.86 17.5\n")
    with pytest.raises(DataError, match=r"1 of 2 images are not listed, '00002.jpg' first"):
        load_labels("spaq", tmp_path)
    text.write_text("00001.jpg 48.86 17.5\n00002.jpg 63.5 1\n")
    with pytest.raises(DataError, match=r"std.txt:2: '00002.jpg' has MOS 63.5 here and 62.5 at"):
        load_labels("spaq", tmp_path)
    text.unlink()
    spaq_sheet(tmp_path / "SPAQ_mos_std.xlsx", ["Image name", "deviation"], ["00001.jpg", 1])
    with pytest.raises(DataError, match=r"no column MOS_std or .*; the sheet has Image name, devi"):
        load_labels("spaq", tmp_path)


def test_published_numbers_of_images() -> None:
    published = {
        "flive": 39810, "cid2013": 474, "gfiqa": 19998, "piq23": 5116, "uhdiqa": 6073,
        "koniqpp": 10073, "aigciqa2023": 2400,
    }  # fmt: skip
    assert {name: label_format(name).images for name in published} == published


def test_a_mirror_of_the_hub_has_no_file_of_an_owner() -> None:
    (file,) = hosting("uhdiqa").files
    assert file.name == "UHD-IQA-database.zip"
    assert file.remote("http://mirror").url.startswith("https://datasets.vqa.mmsp-kn.de/")


def test_plans_of_batches_know_references(tmp_path: Path) -> None:
    labels = "\n".join([PIQ_HEADER, *PIQ_ROWS]) + "\n"
    write(tmp_path, {"Scores_Overall.csv": labels}, PIQ_IMAGES)
    config = DatasetConfig(name="piq23", root=str(tmp_path), split=SplitConfig(by="none"))
    labelled = open_dataset(config)
    groups = labelled.ranked_together(labelled.rows("test"))
    # Two scenes have one image each, which nothing compares with.
    assert {name: group.index.tolist() for name, group in groups.items()} == {
        "piq23/Indoor_Scene_0": [0, 1]
    }
    assert RankingPlan(0, {name: len(g) for name, g in groups.items()}, 2).epoch_length() == 1
