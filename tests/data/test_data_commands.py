"""The commands that look at data, run as a user runs them."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from scripts import bench_data
from tests.support.images import noise_image
from vqr1.cli.data import inspect, prepare
from vqr1.cli.download import verify
from vqr1.config import DatasetConfig, SplitConfig
from vqr1.data.contact_sheet import Tile, contact_sheet, spaced_positions
from vqr1.data.download.completeness import overview
from vqr1.data.labelled_set import open_dataset
from vqr1.progress import progress_bar


@pytest.mark.medium
def test_prepared_kadid_equals_the_release(shared: Path, tmp_path: Path) -> None:
    labels = (shared / "labels" / "kadid" / "dmos.csv").read_bytes()
    (tmp_path / "dmos.csv").write_bytes(labels)
    (tmp_path / "images").mkdir()
    for line in labels.decode().splitlines()[1:]:
        (tmp_path / "images" / line.split(",")[0]).write_bytes(b"x")
    out = tmp_path / "train.jsonl"
    arguments = ["--out", str(out), "dataset=kadid", f"dataset.root={tmp_path}"]
    assert prepare(arguments) == 0
    released = shared / "labels" / "vqr1_release" / "RL-KADID-10K_train_scoring.jsonl"
    assert out.read_bytes() == released.read_bytes()


@pytest.mark.medium
def test_prepared_mixture_is_renumbered_and_readable(
    make_kadid: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vqr1.data.jsonl import read_jsonl

    kadid = make_kadid([1, 2])
    tid = tmp_path / "tid"
    (tid / "distorted_images").mkdir(parents=True)
    noise_image(1).save(tid / "distorted_images" / "i01_01_1.BMP")
    noise_image(2).save(tid / "distorted_images" / "I02_01_5.bmp")
    (tid / "mos_with_names.txt").write_text("5.5 I01_01_1.bmp\n2.5 i02_01_5.bmp\n")
    out = tid / "all.jsonl"
    roots = [f"dataset.parts.kadid.root={kadid}", f"dataset.parts.tid.root={tid}"]
    arguments = ["--split", "all", "--out", str(out), "dataset=kadid+tid", *roots]
    assert prepare(arguments) == 0
    assert f"12 lines in {out}" in capsys.readouterr().out
    lines = read_jsonl(out)
    assert [line.dataset_name for line in lines] == ["KADID-10K"] * 10 + ["TID2013"] * 2
    # The letter case of the disk, so that the file trains anywhere.
    assert [line.image for line in lines[10:]] == ["i01_01_1.BMP", "I02_01_5.bmp"]
    assert [line.mos for line in lines[10:]] == [5.0, 1.0]
    config = DatasetConfig(
        name="jsonl", root=str(tid), label_file=out.name, image_folder="distorted_images",
        select="TID2013", split=SplitConfig(by="none"),
    )  # fmt: skip
    assert open_dataset(config).table["mos_scaled"].tolist() == [5.0, 1.0]


def test_prepare_reports_mistakes_in_one_message(
    make_kadid: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(["dataset=kadid"]) == 2
    assert capsys.readouterr().err.startswith("error: dataset.root=None: set it to the folder")
    arguments = ["dataset=kadid", f"dataset.root={make_kadid([1])}", "dataset.split.by=none"]
    assert prepare(arguments) == 2
    assert "dataset.split: kadid has no train images" in capsys.readouterr().err
    assert prepare(["dataset=kadit"]) == 2
    assert "has no choice kadit; did you mean kadid?" in capsys.readouterr().err


def test_inspection_counts_and_draws(
    make_kadid: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_kadid([1, 7, 19])
    (root / "images" / "I01_01_01.png").unlink()
    (root / "images" / "I01_01_02.png").write_text("no image")
    arguments = ["--out", str(tmp_path / "sheets"), "dataset=kadid", f"dataset.root={root}"]
    assert inspect([*arguments, "--columns", "4", "--rows", "2"]) == 0
    printed = capsys.readouterr().out
    assert "14 images of 10125 in the complete set" in printed
    assert "published scores: higher is better" in printed
    assert "1 image is missing, empty or a folder" in printed
    assert "I01_01_01.png: no such file" in printed
    assert "1 image is undecodable or too narrow among 14 opened" in printed
    rows = [line.split() for line in printed.splitlines()]
    part_rows = {row[1]: row[3] for row in rows if len(row) > 3 and row[1] in ("train", "val")}
    assert part_rows == {"train": "4", "val": "5"}
    with Image.open(tmp_path / "sheets" / "kadid.png") as sheet:
        assert sheet.width > 4 * 192


@pytest.mark.parametrize("folder", ["[kadid]", "[/y]", ":cat:"])
def test_paths_are_printed_as_they_are(
    folder: str, make_kadid: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / folder / "set"
    root.parent.mkdir(parents=True)
    make_kadid([1]).rename(root)
    sheets = tmp_path / folder / "sheets"
    arguments = ["--out", str(sheets), "dataset=kadid", f"dataset.root='{root}'"]
    assert inspect([*arguments, "dataset.split.by=none"]) == 0
    printed = capsys.readouterr().out
    assert f"in {root / 'images'}\n" in printed
    assert f"contact sheet: {sheets / 'kadid.png'}\n" in printed
    overview(Path(folder))
    assert f"data sets under {folder}" in capsys.readouterr().out
    with progress_bar(f"{folder} (MB)", 1) as advance:
        advance(1)
    assert f"{folder} (MB)" in capsys.readouterr().out


def test_inspection_shows_the_subsets_that_training_takes(
    make_kadid: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_kadid([1, 2, 7, 12])
    same = (root / "images" / "I01_01_02.png").read_bytes()
    (root / "images" / "I07_01_03.png").write_bytes(same)
    config = DatasetConfig(
        name="kadid", root=str(root), split=SplitConfig(by="official", seed=3), max_images=2
    )
    rows = open_dataset(config).rows("val")
    arguments = ["--out", str(tmp_path / "sheets"), "dataset=kadid", f"dataset.root={root}",
                 "dataset.max_images=2", "dataset.split.seed=3"]  # fmt: skip
    assert inspect(arguments) == 0
    printed = capsys.readouterr().out
    assert "splits, subsets of at most 2 images" in printed
    lines = [line.split() for line in printed.splitlines()]
    (shown,) = [line for line in lines if line[1:2] == ["val"]]
    numbers = [cell for cell in shown if cell[0].isdigit()]
    mos = [f"{value:.3f}" for value in (rows.mos.mean(), rows.mos.min(), rows.mos.max())]
    assert numbers == ["2", str(rows.reference.nunique()), "1", *mos]
    assert "1 image is a copy of another file among 20 opened" in printed
    assert "I07_01_03.png: the same bytes as I01_01_02.png" in printed


def test_one_rule_of_image_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, kind in (("a.avif", "AVIF"), ("b.jfif", "JPEG"), ("more.jpg", "JPEG")):
        noise_image(0).save(tmp_path / name, kind)
    (tmp_path / "h.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 40)
    (tmp_path / "labels.csv").write_text("image,mos\na,1\nb,2\nh,3\n")
    own = ["dataset=csv", f"dataset.root={tmp_path}", "dataset.split.by=none"]
    assert verify(own) == 2
    printed = capsys.readouterr()
    assert "csv: 3 of 3 labelled images; NOT complete" in printed.out
    if find_spec("pillow_heif") is None:
        assert printed.err == (
            f"error: csv: 1 image is missing or damaged: {tmp_path / 'h.heic'}: the image does "
            "not decode (HEIC needs the package pillow-heif). Put them there, or leave such images "
            "out with dataset.on_bad_image=skip\n"
        )
    assert inspect([*own, "--out", str(tmp_path / "sheets")]) == 0
    printed = capsys.readouterr()
    assert "1 further image file there without a label (more.jpg)" in printed.out


def test_contact_sheet_keeps_order_and_size() -> None:
    tiles = [Tile(Image.new("RGB", (400, 200), color), "1", "x" * 90) for color in ("red", "blue")]
    sheet = contact_sheet("title", [*tiles, Tile(None, "3", "c")], columns=2)
    # Tiles of 192 pixels with gaps of 6 and captions of 34, below a title of 40.
    assert sheet.size == (2 * 198 + 6, 40 + 2 * 232 + 6)
    assert sheet.getpixel((6 + 96, 40 + 96)) == (255, 0, 0)
    assert sheet.getpixel((204 + 96, 40 + 96)) == (0, 0, 255)


def test_standard_deviation_positions_reach_both_ends() -> None:
    assert spaced_positions(10, 4) == [0, 3, 6, 9]
    assert spaced_positions(3, 8) == [0, 1, 2]
    assert spaced_positions(5, 1) == [0]


@pytest.mark.medium
def test_bench_prints_a_rate_for_every_path(
    make_kadid: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_kadid([1, 2, 3])
    arguments = ["dataset=kadid", f"dataset.root={root}", "dataset.split.by=reference",
                 "dataset.split.fractions=[1,0,0]", "loader.batch_size=4"]  # fmt: skip
    assert bench_data.main(["--images", "8", "--workers", "1", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "15 labelled images opened in" in printed
    for path in ("plain single-process loop", "0 workers", "1 workers", "warm cache"):
        assert path in printed
    assert bench_data.main(["--opening", "80", "loader.batch_size=4"]) == 0
    printed = capsys.readouterr().out
    assert "80 images, 1 workers" in printed
    assert "not cached" in printed
