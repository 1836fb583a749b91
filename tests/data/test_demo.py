"""The demo set: format, labels, split, determinism, and one generation for many processes."""

from __future__ import annotations

import hashlib
import itertools
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vqr1.data import demo
from vqr1.data.demo import (
    CROP,
    CROPS,
    FOLDER,
    PHOTOGRAPHS,
    RATERS,
    Photograph,
    draw_crops,
    ensure_demo_set,
    expected_mos,
    load_photograph,
    rate,
    stream,
    texture,
    write_demo_set,
    write_labels,
)
from vqr1.data.distortions import DISTORTIONS, LEVELS, Pixels, to_bytes
from vqr1.data.labels import load_labels
from vqr1.errors import DataError

SMALL = {"train": 1, "val": 1, "test": 1}


@pytest.fixture(scope="module")
def crop() -> Pixels:
    image = load_photograph(next(p for p in PHOTOGRAPHS if p.name == "motorcycle"))
    return draw_crops(image, 1, stream("tests", "crop"))[0]


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "CROPS", SMALL)
        write_demo_set(folder)
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.medium
def test_labels_are_in_kadids_own_form(small_set: Path) -> None:
    table = pd.read_csv(small_set / "dmos.csv")
    assert list(table.columns) == ["dist_img", "ref_img", "dmos", "var"]
    # 11 photographs x 1 crop x 10 types
    assert len(table) == len(PHOTOGRAPHS) * len(DISTORTIONS) == 110
    assert table.dmos.between(1.0, 5.0).all()
    assert (table["var"] >= 0).all()
    assert table.dist_img.is_unique
    for name in [*table.dist_img[::13], *table.ref_img.unique()]:
        assert (small_set / "images" / name).is_file()
    with Image.open(small_set / "images" / table.dist_img[0]) as image:
        assert (image.size, image.mode, image.format) == ((CROP, CROP), "RGB", "PNG")


@pytest.mark.medium
def test_two_generations_are_byte_identical(
    small_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "CROPS", SMALL)
    np.random.seed(0)  # the global state must not matter
    write_demo_set(tmp_path)
    assert digests(tmp_path) == digests(small_set)


def test_images_and_mos_are_those_of_the_set_whose_var_held_variances(
    small_set: Path, tmp_path: Path
) -> None:
    # Both digests were taken with the code that wrote the folder demo-v2. Of the images decoded
    # pixels, since builds of Pillow compress differently; of the labels all 4,000.
    pixels = hashlib.sha256()
    for path in sorted((small_set / "images").iterdir()):
        with Image.open(path) as image:
            pixels.update(path.name.encode() + b"\n" + np.asarray(image).tobytes())
    assert pixels.hexdigest() == "d4b8b152ddfe0c1e69764cebc3c333d7ca5cd0bb6daf118d67fd04099fd34347"
    write_labels(tmp_path)
    lines = (tmp_path / "dmos.csv").read_text().splitlines()[1:]
    labels = "\n".join(line.rpartition(",")[0] for line in lines)
    assert len(lines) == 4000
    digest = hashlib.sha256(labels.encode()).hexdigest()
    assert digest == "3705dc26dd97a4e43140f2a610fdd34f81240a0c17f4b9c9f3fa84579668d59e"


def test_a_cached_folder_with_variances_is_not_used() -> None:
    assert FOLDER != "demo-v2"


def test_var_is_the_standard_deviation_of_the_ratings(tmp_path: Path) -> None:
    write_labels(tmp_path)
    first = (tmp_path / "dmos.csv").read_text().splitlines()[1]
    # Of blur at level 1 of the first crop: 20 ratings with sum 90, ten fours and ten fives. Their
    # unbiased variance is 20 * .25 / 19 = .263158, of which the root is .512989.
    assert first == "astronaut00_01_01.png,astronaut.png,4.50,0.5130"
    found = load_labels("demo", tmp_path)
    assert found["std"].iloc[0] == 0.513
    assert found["mos"].iloc[0] == 4.5


def test_the_split_is_by_photograph(small_set: Path) -> None:
    parts = {p: (small_set / "splits" / f"{p}.txt").read_text().split() for p in CROPS}
    names = [name for part in parts.values() for name in part]
    assert len(names) == len(set(names)) == len(PHOTOGRAPHS)
    assert set(names) == set(pd.read_csv(small_set / "dmos.csv").ref_img)
    assert len(parts["train"]) == 6
    assert len(parts["val"]) >= 2
    assert len(parts["test"]) >= 3


def test_every_photograph_shows_every_type_at_every_level_equally_often() -> None:
    # The level of type t in crop c is 1 + (c + t) mod 5, so any 5 crops in a row, and hence any
    # multiple of 5, hold each (type, level) once.
    assert all(count % len(LEVELS) == 0 for count in CROPS.values())
    total = sum(CROPS[p.split] for p in PHOTOGRAPHS) * len(DISTORTIONS)
    # (6 x 50 + 2 x 20 + 3 x 20) x 10
    assert total == 4000


def test_mos_falls_strictly_with_level_from_mildest_to_worst() -> None:
    for distortion in DISTORTIONS:
        mos = [expected_mos(distortion, level) for level in LEVELS]
        assert mos[0] == distortion.mildest
        assert mos[-1] == pytest.approx(distortion.worst)
        assert all(a > b for a, b in itertools.pairwise(mos))
        assert 1.0 <= distortion.worst < distortion.mildest <= 5.0
    # blur at level 3: 4.4 - 3.2 * (2 / 4) ** 0.85 = 4.4 - 3.2 * 0.554785 = 2.624688
    assert expected_mos(DISTORTIONS[0], 3) == pytest.approx(2.624688, abs=1e-6)


def test_ratings_scatter_around_the_expected_mos_with_the_types_disagreement() -> None:
    haze = next(d for d in DISTORTIONS if d.name == "low_contrast")
    drawn = np.array([rate(haze, 3, stream("tests", i)) for i in range(400)])
    expected = expected_mos(haze, 3)  # about 3, far from the ends of the scale
    # The mean of 400 x 20 ratings: standard error .9 / sqrt(8000) = .01.
    assert drawn[:, 0].mean() == pytest.approx(expected, abs=0.05)
    # Whole-number ratings add 1/12 to the variance; clipping at 1 and 5 takes a little away.
    variance = np.mean(drawn[:, 1] ** 2)
    assert variance == pytest.approx(haze.disagreement**2 + 1 / 12, rel=0.08)
    assert drawn[:, 0].std() == pytest.approx(
        np.sqrt((haze.disagreement**2 + 1 / 12) / RATERS), rel=0.15
    )


@pytest.mark.parametrize("distortion", DISTORTIONS, ids=lambda d: d.name)
def test_a_higher_level_changes_an_image_more(distortion, crop: Pixels) -> None:  # type: ignore[no-untyped-def]
    before = crop.copy()
    changes = []
    for level in LEVELS:
        damaged = distortion.apply(crop, level, stream("tests", distortion.name))
        assert damaged.shape == crop.shape
        assert damaged.dtype == np.float32
        assert 0.0 <= damaged.min() <= damaged.max() <= 1.0
        changes.append(float(np.mean((damaged - crop) ** 2)))
    assert all(a < b for a, b in itertools.pairwise(changes)), changes
    np.testing.assert_array_equal(crop, before)


def test_a_distortion_is_a_function_of_its_stream(crop: Pixels) -> None:
    noise = next(d for d in DISTORTIONS if d.name == "white_noise")
    first = noise.apply(crop, 3, stream("tests", "a"))
    np.testing.assert_array_equal(first, noise.apply(crop, 3, stream("tests", "a")))
    assert not np.array_equal(first, noise.apply(crop, 3, stream("tests", "b")))


@pytest.mark.parametrize("level", [0, 0.99, 5.01, 6])
def test_a_level_outside_one_to_five_is_refused(level: float, crop: Pixels) -> None:
    with pytest.raises(ValueError, match="between 1 and 5"):
        DISTORTIONS[0].apply(crop, level, stream("tests"))


def test_pixel_values_survive_the_file_format() -> None:
    values = np.arange(256, dtype=np.float32).reshape(16, 16, 1).repeat(3, axis=2) / 255.0
    np.testing.assert_array_equal(to_bytes(values)[..., 0].ravel(), np.arange(256))


def test_crops_are_the_more_textured_half() -> None:
    image = np.zeros((200, 300, 3), dtype=np.float32)
    checks = (np.indices((200, 150)).sum(axis=0) % 2).astype(np.float32)
    image[:, 150:] = checks[..., None]
    crops = draw_crops(image, 20, stream("tests", "texture"))
    assert len(crops) == 20
    # Blocks of a 0-1 checkerboard have deviation .5; a crop with most of its blocks there has
    # that median. Half the positions do (left edge beyond 150 - 56), so all 20 kept crops may.
    assert np.mean([texture(c) for c in crops]) > 0.4


def test_the_set_is_made_once_even_when_many_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "CROPS", SMALL)
    calls = []

    def counted(folder: Path, progress: object = None) -> None:
        calls.append(folder)
        write_demo_set(folder)

    monkeypatch.setattr(demo, "write_demo_set", counted)
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(ensure_demo_set(tmp_path))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / FOLDER] * 3
    assert len(calls) == 1
    assert not list(tmp_path.glob("*.split"))
    assert len(pd.read_csv(found[0] / "dmos.csv")) == 110


def test_an_interrupted_generation_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(folder: Path, progress: object = None) -> None:
        (folder / "dmos.csv").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "write_demo_set", broken)
    with pytest.raises(KeyboardInterrupt):
        ensure_demo_set(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] in ([f"{FOLDER}.lock"], [])


def test_the_cache_folder_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VQR1_CACHE", str(tmp_path / "own"))
    assert demo.default_cache_dir() == tmp_path / "own"
    monkeypatch.delenv("VQR1_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert demo.default_cache_dir() == tmp_path / "xdg" / "vqr1"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert demo.default_cache_dir() == tmp_path / ".cache" / "vqr1"


def test_a_changed_photograph_is_refused_by_name() -> None:
    wrong = Photograph("coffee", "skimage", "data/coffee.png", "0" * 64, "test")
    with pytest.raises(DataError, match=r"coffee\.png has SHA-256 cc02f8.*constraints"):
        load_photograph(wrong)
    absent = Photograph("tea", "skimage", "data/tea.png", "0" * 64, "test")
    with pytest.raises(DataError, match=r"tea\.png is missing"):
        load_photograph(absent)
    package = Photograph("tea", "no_such_package", "data/tea.png", "0" * 64, "test")
    with pytest.raises(DataError, match="'no_such_package' is not installed"):
        load_photograph(package)


def test_photographs_are_read_without_the_network() -> None:
    # Every photograph lies inside an installed wheel; nothing goes through a downloader.
    for photograph in PHOTOGRAPHS:
        image = load_photograph(photograph, short_edge=64)
        assert min(image.shape[:2]) == 64
