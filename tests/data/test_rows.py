"""Rows of several images: a reference and the image, or images to compare."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import networkx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.images import noise_image
from vqr1.config import CsvColumns, DatasetConfig, SplitConfig
from vqr1.data.contents import connected
from vqr1.data.labelled_set import LabelledSet, open_dataset
from vqr1.data.labels import load_labels
from vqr1.data.preparation import jsonl_lines, prepare
from vqr1.data.ranking_images import SetImages
from vqr1.data.split_duplicates import pairs_between_contents, without_near_duplicates
from vqr1.errors import ConfigError, DataError

PAIR = CsvColumns(image=("ref", "dist"), reference="ref")


def images(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise_image(number, 48, 32).save(folder / name)


def table(root: Path, rows: Sequence[Sequence[object]], header: Sequence[str]) -> None:
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def pairs_set(root: Path, columns: CsvColumns = PAIR, **options: object) -> LabelledSet:
    """Two references with three images each; MOS 1 to 6."""
    images(root / "images", "a.png", "b.png", *(f"{r}{n}.png" for r in "ab" for n in range(3)))
    rows = [(f"{r}.png", f"{r}{n}.png", 1 + n + 3 * (r == "b")) for r in "ab" for n in range(3)]
    table(root, rows, ("ref", "dist", "mos"))
    split = options.pop("split", SplitConfig(by="none"))
    config = DatasetConfig(
        name="csv", root=str(root), split=split, label_file="labels.csv", columns=columns, **options
    )  # type: ignore[arg-type]
    return open_dataset(config)


def test_a_csv_lists_the_reference_and_the_image(tmp_path: Path) -> None:
    labelled = pairs_set(tmp_path)
    rows = labelled.table
    assert rows["images"].tolist()[:2] == [("a.png", "a0.png"), ("a.png", "a1.png")]
    assert rows["image"].tolist() == ["a0.png", "a1.png", "a2.png", "b0.png", "b1.png", "b2.png"]
    assert labelled.own_files([0, 3]) == {
        name: tmp_path / "images" / name for name in ("a0.png", "b0.png")
    }
    assert [path.name for path in labelled.shown_files([0, 1])] == ["a.png", "a0.png", "a1.png"]
    source = SetImages(labelled, rows, torch.zeros(6, dtype=torch.uint8))
    source.check_fits(2)
    assert [path.name for path in source.paths(4)] == ["b.png", "b1.png"]
    with pytest.raises(ConfigError, match=r"prompt\.images=1: dataset: a row of csv has 2 images"):
        source.check_fits(1)


def test_the_reference_column_names_files_for_full_reference(tmp_path: Path) -> None:
    listed = pairs_set(tmp_path / "listed").table
    asked = pairs_set(
        tmp_path / "asked", CsvColumns(image="dist", reference="ref"), full_reference=True
    ).table
    for column in ("image", "images", "own_images", "reference", "mos_scaled"):
        assert asked[column].tolist() == listed[column].tolist(), column


def test_a_shared_reference_is_no_leak(tmp_path: Path) -> None:
    split = SplitConfig(by="reference", fractions=(0.5, 0.0, 0.5), near_duplicates="refuse", seed=1)
    labelled = pairs_set(tmp_path, split=split)
    (tmp_path / "images" / "b.png").write_bytes((tmp_path / "images" / "a.png").read_bytes())
    without_near_duplicates({"csv": labelled})
    # An image of the row's own is one.
    (tmp_path / "images" / "b1.png").write_bytes((tmp_path / "images" / "a1.png").read_bytes())
    with pytest.raises(DataError, match=r"csv: 1 image is near-identical .*1\.png"):
        without_near_duplicates({"csv": labelled})
    (pair,) = pairs_between_contents(labelled, labelled.table.index.to_numpy())
    assert pair.startswith("a1.png and b1.png (0 of 256 bits, in ")


def test_rows_to_compare_keep_their_images_in_one_split(tmp_path: Path) -> None:
    images(tmp_path / "images", *(f"{n}.png" for n in range(8)))
    rows = [(f"{a}.png", f"{b}.png", a + b) for four in (range(4), range(4, 8))
            for a, b in combinations(four, 2)]  # fmt: skip
    table(tmp_path, rows, ("first", "second", "mos"))
    config = DatasetConfig(
        name="csv",
        root=str(tmp_path),
        split=SplitConfig(by="image", fractions=(0.5, 0.0, 0.5)),
        label_file="labels.csv",
        columns=CsvColumns(image=("first", "second")),
    )
    labelled = open_dataset(config)
    assert labelled.table["image"].iat[0] == "0.png + 1.png"
    of_image: dict[str, set[str]] = {}
    for own, split in zip(labelled.table["own_images"], labelled.table["split"], strict=True):
        for image in own:
            of_image.setdefault(image, set()).add(split)
    assert sorted(map(sorted, of_image.values())) == [["test"]] * 4 + [["train"]] * 4
    # A list may name an image: all its rows are in that split.
    (tmp_path / "test.txt").write_text("5.png\n")
    config.split = SplitConfig(by="files", files={"test": "test.txt"})
    assert len(open_dataset(config).rows("test")) == 3


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=3), max_size=8))
def test_connected_rows_are_those_of_a_graph(groups: list[list[str]]) -> None:
    graph = networkx.Graph()
    for group in groups:
        graph.add_nodes_from(group)
        graph.add_edges_from((group[0], other) for other in group[1:])
    component = {node: i for i, nodes in enumerate(networkx.connected_components(graph))
                 for node in nodes}  # fmt: skip
    names = connected(groups)
    assert all(component[name] == component[g[0]] for name, g in zip(names, groups, strict=True))
    assert len(set(names)) == len({component[group[0]] for group in groups})


def test_a_jsonl_of_pairs_is_written_and_read(tmp_path: Path) -> None:
    labelled = pairs_set(tmp_path)
    prepare({"csv": ("dataset", labelled.config)}, "all", tmp_path / "pairs.jsonl")
    first = json.loads((tmp_path / "pairs.jsonl").read_text().splitlines()[0])
    assert first["image"] == ["a.png", "a0.png"]
    read = load_labels("jsonl", tmp_path, label_file="pairs.jsonl")
    assert read["images"].tolist() == labelled.table["images"].tolist()
    assert read["image"].iat[0] == "a.png + a0.png"
    assert read["mos"].tolist() == labelled.table["mos_scaled"].tolist()


KADID = "dist_img,ref_img,dmos,var\nI01_01_01.png,I01.png,4,0.2\nI02_01_01.png,I02.png,2,0.1\n"
OFFICIAL = {
    # name: label file, its text, images, and the images of each row
    "kadid": ("dmos.csv", KADID, ["images/I01_01_01.png", "images/I02_01_01.png"],
              ["images/I01.png", "images/I02.png"], [("I01.png", "I01_01_01.png"),
                                                     ("I02.png", "I02_01_01.png")]),
    "tid": ("mos_with_names.txt", "5.5 i01_01_1.bmp\n4.5 I02_01_1.bmp\n",
            ["distorted_images/i01_01_1.bmp", "distorted_images/I02_01_1.bmp"],
            ["reference_images/I01.BMP", "reference_images/i02.bmp"],
            [("../reference_images/I01.BMP", "i01_01_1.bmp"),
             ("../reference_images/i02.bmp", "I02_01_1.bmp")]),
    "csiq": ("csiq_label.txt", "1600.AWGN.1.png 0.1\nlake.BLUR.2.png 0.3\n",
             ["dst_imgs/awgn/1600.AWGN.1.png", "dst_imgs/blur/lake.BLUR.2.png"],
             ["src_imgs/1600.png", "src_imgs/lake.png"],
             [("../src_imgs/1600.png", "awgn/1600.AWGN.1.png"),
              ("../src_imgs/lake.png", "blur/lake.BLUR.2.png")]),
    "live": ("meta_info_LIVEIQADataset.csv",
             "dist_name,ref_name,mos,std,split\njp2k/img1.bmp,refimgs/sea.bmp,30,1,train\n"
             "jp2k/img2.bmp,refimgs/sky.bmp,40,1,test\n", ["jp2k/img1.bmp", "jp2k/img2.bmp"],
             ["refimgs/sea.bmp", "refimgs/sky.bmp"],
             [("refimgs/sea.bmp", "jp2k/img1.bmp"), ("refimgs/sky.bmp", "jp2k/img2.bmp")]),
    "pipal": ("Train_Label/a.txt", "A0001_00_00.bmp,1400\nA0002_00_01.bmp,1500\n",
              ["Train_Dist/A0001_00_00.bmp", "Train_Dist/A0002_00_01.bmp"],
              ["Train_Ref/A0001.bmp", "Train_Ref/A0002.bmp"],
              [("../Train_Ref/A0001.bmp", "A0001_00_00.bmp"),
               ("../Train_Ref/A0002.bmp", "A0002_00_01.bmp")]),
}  # fmt: skip


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_references_stand_before_their_images(name: str, tmp_path: Path) -> None:
    file, text, own, references, expected = OFFICIAL[name]
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    images(tmp_path, *own, *references)
    config = DatasetConfig(name=name, root=str(tmp_path), split=SplitConfig(by="none"))
    plain = open_dataset(config).table
    config.full_reference = True
    labelled = open_dataset(config)
    assert labelled.table["images"].tolist() == expected
    assert [path.is_file() for path in labelled.shown_files(range(2))] == [True] * 4
    # Everything but what is shown stays as it is.
    unchanged = [column for column in plain if column != "images"]
    assert labelled.table[unchanged].equals(plain[unchanged])
    (tmp_path / references[1]).unlink()
    with pytest.raises(DataError, match=r"full_reference=true: 1 of 2 reference images cannot"):
        open_dataset(config)


def test_prepared_lines_name_nothing_outside_the_image_folder(tmp_path: Path) -> None:
    file, text, own, references, _ = OFFICIAL["tid"]
    (tmp_path / file).write_text(text)
    images(tmp_path, *own, *references)
    config = DatasetConfig(
        name="tid", root=str(tmp_path), split=SplitConfig(by="none"), full_reference=True
    )
    with pytest.raises(DataError, match=r"I01\.BMP lies outside .*; set dataset\.image_folder=\. "):
        jsonl_lines(open_dataset(config), "all")
    config.image_folder = "."
    lines = jsonl_lines(open_dataset(config), "all")
    assert [line.images for line in lines] == list(zip(references, own, strict=True))


def test_references_beside_a_linked_image_folder(tmp_path: Path) -> None:
    file, text, own, references, _ = OFFICIAL["tid"]
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / file).write_text(text)
    images(tmp_path / "set", *references)
    images(tmp_path / "disk" / "far", *own)
    folder = own[0].split("/")[0]
    (tmp_path / "set" / folder).symlink_to(tmp_path / "disk" / "far" / folder)
    config = DatasetConfig(
        name="tid", root=str(tmp_path / "set"), split=SplitConfig(by="none"), full_reference=True
    )
    shown = open_dataset(config).shown_files(range(2))
    assert [path.resolve() for path in shown] == [
        tmp_path / place / name
        for pair in zip(references, own, strict=True)
        for place, name in zip(("set", "disk/far"), pair, strict=True)
    ]


def test_what_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dmos.csv").write_text(KADID)
    images(tmp_path, "images/I01_01_01.png", "images/I02_01_01.png")
    config = DatasetConfig(
        name="kadid", root=str(tmp_path), split=SplitConfig(by="none"), full_reference=True
    )
    missing = rf"2 of 2 reference images .*: {tmp_path}/images/I01.png: no such file; "
    with pytest.raises(DataError, match=missing):
        open_dataset(config)
    (tmp_path / "mos_with_names.txt").write_text("5.5 i01_01_1.bmp\n4.5 I02_01_1.bmp\n")
    images(tmp_path, "distorted_images/i01_01_1.bmp", "distorted_images/I02_01_1.bmp")
    config.name = "tid"
    with pytest.raises(DataError, match=rf"no folder {tmp_path}/reference_images of reference"):
        open_dataset(config)
    (tmp_path / "data.csv").write_text("name,mos_quality,std_quality\na_b.png,1,0\nc_d.png,2,0\n")
    images(tmp_path, "images/a_b.png", "images/c_d.png")
    config.name = "agiqa3k"
    with pytest.raises(ConfigError, match="AGIQA-3K comes without reference images"):
        open_dataset(config)
    for number, (columns, message) in enumerate(
        [
            (PAIR, "its rows list 2 images already"),
            (CsvColumns(image="dist"), "6 of 6 rows name no reference, such as that of a0.png"),
        ]
    ):
        with pytest.raises((ConfigError, DataError), match=message):
            pairs_set(tmp_path / str(number), columns, full_reference=True)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("a.png", "", 3), r"labels\.csv:2: empty image name"),
        (("../a.png", "a0.png", 3), r"labels\.csv:2: image '\.\./a\.png' leaves the image folder"),
        (("a.png", "c.png", 3), r"1 of 7 labelled images cannot be used .*c\.png: no such file"),
        (("a.png", "a0.png", 3), r"labels\.csv:3: image 'a0\.png' was already listed at"),
    ],
)
def test_bad_rows_of_a_csv(row: tuple[object, ...], message: str, tmp_path: Path) -> None:
    labelled = pairs_set(tmp_path)
    with (tmp_path / "labels.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    table(tmp_path, [row, *rows], header)
    with pytest.raises(DataError, match=message):
        open_dataset(labelled.config)
