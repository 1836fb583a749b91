"""Near-identical images: hashes against brute force, the cache, and splits that share images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from vqr1.config import DatasetConfig, MixtureConfig, SplitConfig
from vqr1.data import near_duplicates
from vqr1.data.inspection import Extent, report
from vqr1.data.near_duplicates import image_hashes, near_pairs, perceptual_hash
from vqr1.data.opened_sets import open_sets
from vqr1.errors import DataError


def scene(seed: int) -> Image.Image:
    """Smooth random shapes: unlike white noise, they survive compression and resizing."""
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((256, 256)).filter(ImageFilter.GaussianBlur(2))


def test_pairs_are_those_of_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "_BLOCK", 3)
    draw = np.random.default_rng(0)
    bits = draw.integers(0, 2, (12, 256))
    bits[5] = bits[1]
    bits[9] = np.where(np.arange(256) < 48, 1 - bits[2], bits[2])
    bits[11] = np.where(np.arange(256) < 49, 1 - bits[2], bits[2])
    hashes = [f"{int(''.join(map(str, row)), 2):064x}" for row in bits]
    hashes[7] = ""

    def brute(left: range, right: range, upper: bool) -> set[tuple[int, int, int]]:
        pairs = ((i, j, int((bits[i] != bits[j]).sum())) for i in left for j in right)
        return {
            (i, j, d) for i, j, d in pairs if d <= 48 and 7 not in (i, j) and (not upper or j > i)
        }

    within = brute(range(12), range(12), True)
    assert {tuple(pair) for pair in near_pairs(hashes).tolist()} == within
    assert (2, 9, 48) in within
    assert (1, 5, 0) in within
    assert not any(11 in pair[:2] and 2 in pair[:2] for pair in within)
    across = {(i, j - 4, d) for i, j, d in brute(range(4), range(4, 12), False)}
    assert {tuple(p) for p in near_pairs(hashes[:4], hashes[4:]).tolist()} == across
    assert len(near_pairs([], [""])) == 0


@pytest.mark.medium
def test_copies_are_near_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VQR1_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(near_duplicates, "_FEW", 1)
    source = scene(0)
    changed = {
        "source.png": source,
        "encoded.jpg": source,
        "resized.png": source.resize((120, 120)),
        "cropped.png": source.crop((3, 3, 253, 253)),
        "bright.png": source.point(lambda value: value * 0.7 + 40),
        "other.png": scene(1),
        "flat.png": Image.new("RGB", (64, 64), "grey"),
    }
    for name, image in changed.items():
        image.save(tmp_path / name)
    turned = Image.Exif()
    turned[0x0112] = 3
    source.rotate(180).save(tmp_path / "turned.png", exif=turned)
    (tmp_path / "none.png").write_text("no image")
    names = [*changed, "turned.png", "none.png"]
    hashes = image_hashes([tmp_path / name for name in names])
    near = {names[j] for i, j, _ in near_pairs(hashes).tolist() if i == 0}
    assert near == {"encoded.jpg", "resized.png", "cropped.png", "bright.png", "turned.png"}
    assert hashes[names.index("flat.png")] == hashes[names.index("none.png")] == ""

    made: list[Path] = []
    monkeypatch.setattr(
        near_duplicates, "perceptual_hash", lambda f: made.append(f) or perceptual_hash(f)
    )
    scene(2).save(tmp_path / "other.png")
    again = image_hashes([tmp_path / name for name in names])
    assert made == [tmp_path / "other.png"]  # the only file that has changed
    assert [a == b for a, b in zip(again, hashes, strict=True)] == [n != "other.png" for n in names]


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DatasetConfig]:
    """A CSV set of 3 training, 2 validation and 2 test scenes; 1 training image is a test one."""
    monkeypatch.setenv("VQR1_CACHE", str(tmp_path / "cache"))

    def make(name: str, seeds: list[int], action: str) -> DatasetConfig:
        root = tmp_path / name
        root.mkdir()
        splits = ["train"] * 3 + ["val"] * 2 + ["test"] * 2
        lines = ["image,mos,split"]
        for number, (seed, split) in enumerate(zip(seeds, splits, strict=True)):
            scene(seed).resize((200 + number, 200)).save(root / f"{number}.jpg")
            lines.append(f"{number}.jpg,{number},{split}")
        (root / "labels.csv").write_text("\n".join(lines) + "\n")
        return DatasetConfig(
            name="csv",
            root=str(root),
            label_file="labels.csv",
            columns={"split": "split"},  # type: ignore[arg-type]
            split=SplitConfig(by="official", near_duplicates=action),  # type: ignore[arg-type]
        )

    return make


def test_images_in_two_splits_are_excluded_or_refused(
    shared: Callable[..., DatasetConfig],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Image 1 is image 6, a test image; validation image 3 is training image 2.
    config = shared("own", [10, 11, 12, 12, 14, 15, 11], "exclude")
    labelled = open_sets(config)["csv"]
    assert labelled.rows("train")["image"].tolist() == ["0.jpg"]
    assert labelled.rows("val")["image"].tolist() == ["3.jpg", "4.jpg"]
    assert labelled.rows("test")["image"].tolist() == ["5.jpg", "6.jpg"]
    assert "csv: 2 images are near-identical to images of a later split" in caplog.text
    refusing = replace(config, split=replace(config.split, near_duplicates="refuse"))
    with pytest.raises(DataError, match=r"dataset\.split\.near_duplicates=refuse: csv: 2 images .*"
                       r"1\.jpg \(train\) and 6\.jpg \(test\)"):  # fmt: skip
        open_sets(refusing)
    for action in ("report", "ignore"):
        kept = replace(config, split=replace(config.split, near_duplicates=action))
        assert len(open_sets(kept)["csv"].rows("train")) == 3

    # Across the sets of a mixture: its training image 0 is the first set's test image 5.
    other = shared("other", [15, 21, 22, 23, 24, 25, 26], "exclude")
    mixed = open_sets(MixtureConfig(parts={"a": config, "b": other}))
    assert mixed["b"].rows("train")["image"].tolist() == ["1.jpg", "2.jpg"]

    # With a subset, images that take the place of excluded ones are compared too: of four training
    # images 0 and 1 are test images, whichever two the subset holds first.
    crowded = shared("crowded", [15, 16, 17, 18, 14, 15, 16], "exclude")
    table = (Path(str(crowded.root)) / "labels.csv").read_text().replace("3,val", "3,train")
    (Path(str(crowded.root)) / "labels.csv").write_text(table)
    for size in (1, 2, 3):
        left = open_sets(replace(crowded, max_images=size))["csv"].rows("train")["image"].tolist()
        tests = open_sets(replace(crowded, max_images=size))["csv"].rows("test")["image"].tolist()
        twins = {"5.jpg": "0.jpg", "6.jpg": "1.jpg"}
        assert len(left) == min(size, 4 - len(tests))
        assert not {twins[image] for image in tests} & set(left)

    report(Extent(tmp_path / "out", None, 2, 2, 2), "own", "dataset", config)
    printed = capsys.readouterr().out
    assert "2 image pairs are near-identical among 7 opened" in printed
    assert "1.jpg and 6.jpg" in printed
    assert "in train and test" in printed
