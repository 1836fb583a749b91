"""The embedded demo set: a small labelled set in KADID-10k's file format, made on the spot.

What it does: cuts 112 x 112 crops out of the colour photographs that scikit-image, scikit-learn
and matplotlib carry in their wheels, damages each crop with one distortion at one level
(`vqr1.data.distortions`), and writes `dmos.csv`, `images/` and `splits/` as KADID-10k users have
them, so that the KADID parser reads them. The splits are split by photograph: no photograph of
validation or test is ever seen in training. Nothing is downloaded, and no rater was asked:

    expected MOS  e = mildest - (mildest - worst) * ((level - 1) / 4) ** 0.85
    one rating        r_i = clip(round(e + disagreement * n_i), 1, 5),  n_i ~ N(0, 1)
    label             dmos = mean of 20 ratings,  var = the root of their unbiased variance

with the three constants of each type beside its definition. As in KADID-10k, and despite the
columns' names, higher is better and `var` holds a standard deviation.

Not here: interaction between content and distortion, and several distortions at once.

Random numbers come from PCG64 streams seeded by the name of what they decide, so the set is the
same, byte for byte, in every generation with the same library versions.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image
from rich.console import Console

from vqr1.data.distortions import (
    DISTORTIONS,
    LEVELS,
    Distortion,
    Pixels,
    from_bytes,
    to_bytes,
)
from vqr1.durable import make_folder, place_folder
from vqr1.errors import DataError
from vqr1.progress import progress_bar

FOLDER = "demo-v3"
"""Name of the set's folder; changes whenever its content does."""

SEED = "demo-v2"
"""Seeds the random streams. Images and MOS are those of the folder of this name, whose `var` column
held variances."""

CROP = 112
"""Edge of every image in pixels: 8 x 8 patches of 14, 4 x 4 image tokens after merging."""

SHORT_EDGE = 272
"""Photographs are reduced to this short edge first, so that clean crops are sharp at pixel level
and show objects rather than single surfaces."""

RATERS = 20
"""Simulated raters of each image."""

CURVATURE = 0.85
"""Exponent of the fall of MOS with level: the first steps hurt a little more than the last."""


@dataclass(frozen=True)
class Photograph:
    """A photograph inside an installed package.

    Attributes:
        name: short name; its reference image is `<name>.png`.
        package: package that carries it.
        path: file relative to the package's folder.
        sha256: digest of that file.
        split: train, val or test.
    """

    name: str
    package: str
    path: str
    sha256: str
    split: str

    @property
    def reference(self) -> str:
        """Name in the `ref_img` column."""
        return f"{self.name}.png"


PHOTOGRAPHS = (
    Photograph(
        "astronaut", "skimage", "data/astronaut.png",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5", "train",
    ),
    Photograph(
        "hubble", "skimage", "data/hubble_deep_field.jpg",
        "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4", "train",
    ),
    Photograph(
        "ihc", "skimage", "data/ihc.png",
        "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef", "train",
    ),
    Photograph(
        "motorcycle", "skimage", "data/motorcycle_left.png",
        "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179", "train",
    ),
    Photograph(
        "retina", "skimage", "data/retina.jpg",
        "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6", "train",
    ),
    Photograph(
        "rocket", "skimage", "data/rocket.jpg",
        "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c", "train",
    ),
    Photograph(
        "chelsea", "skimage", "data/chelsea.png",
        "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb", "val",
    ),
    Photograph(
        "hopper", "matplotlib", "mpl-data/sample_data/grace_hopper.jpg",
        "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130", "val",
    ),
    Photograph(
        "china", "sklearn", "datasets/images/china.jpg",
        "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29", "test",
    ),
    Photograph(
        "coffee", "skimage", "data/coffee.png",
        "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7", "test",
    ),
    Photograph(
        "flower", "sklearn", "datasets/images/flower.jpg",
        "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638", "test",
    ),
)  # fmt: skip
"""Every colour photograph of the three wheels. Excluded: the right view of the motorcycle, which is
the left view again, and drawings (logo, colour wheel, chessboard, silhouette, phantom)."""

CROPS = {"train": 50, "val": 20, "test": 20}
"""Crops of each photograph by split. Every crop meets each of the ten types once, at a level that
rotates with the crop's number, so each photograph shows every type at every level equally often:
3,000, 400 and 600 images."""


def stream(*names: str | int) -> np.random.Generator:
    """The random stream that belongs to a name, the same in every process and generation."""
    digest = hashlib.sha256("/".join(str(name) for name in names).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def expected_mos(distortion: Distortion, level: float) -> float:
    """MOS that a typical rater would give, strictly falling with the level.

    Args:
        distortion: the type.
        level: 1 to 5.

    Returns:
        A score between `distortion.mildest` and `distortion.worst`.
    """
    share = ((level - LEVELS[0]) / (LEVELS[-1] - LEVELS[0])) ** CURVATURE
    return distortion.mildest - (distortion.mildest - distortion.worst) * share


def rate(distortion: Distortion, level: int, rng: np.random.Generator) -> tuple[float, float]:
    """Mean and standard deviation (ddof 1) of the simulated raters' whole-number ratings."""
    noise = rng.standard_normal(RATERS) * distortion.disagreement
    ratings = np.clip(np.rint(expected_mos(distortion, level) + noise), 1.0, 5.0)
    return float(ratings.mean()), float(ratings.std(ddof=1))


def load_photograph(photograph: Photograph, short_edge: int = SHORT_EDGE) -> Pixels:
    """Reads a photograph from its wheel and reduces it.

    Args:
        photograph: which one.
        short_edge: its shorter side afterwards, in pixels.

    Returns:
        [H, W, 3] float32 in [0, 1].

    Raises:
        DataError: the package is missing, or its file is absent or not the one this set was
            defined on.
    """
    spec = importlib.util.find_spec(photograph.package)
    if spec is None or spec.origin is None:
        raise DataError(
            f"demo set: package {photograph.package!r} is not installed; it carries "
            f"{photograph.path}. Install the versions in constraints.txt."
        )
    path = Path(spec.origin).parent / photograph.path
    if not path.is_file():
        raise DataError(
            f"demo set: {path} is missing; install the versions in constraints.txt, whose wheels "
            "carry it."
        )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != photograph.sha256:
        raise DataError(
            f"demo set: {path} has SHA-256 {found}, but the set is defined on "
            f"{photograph.sha256}. Install the versions in constraints.txt."
        )
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    scale = short_edge / min(rgb.size)
    size = (round(rgb.width * scale), round(rgb.height * scale))
    return from_bytes(np.asarray(rgb.resize(size, Image.Resampling.LANCZOS)))


def texture(crop: Pixels) -> float:
    """How much of a crop can show a distortion: the median deviation of its 8 x 8 blocks."""
    height, width = (edge // 8 * 8 for edge in crop.shape[:2])
    grey = crop[:height, :width].mean(axis=2)
    blocks = grey.reshape(height // 8, 8, width // 8, 8).std(axis=(1, 3))
    return float(np.median(blocks))


def draw_crops(pixels: Pixels, count: int, rng: np.random.Generator) -> list[Pixels]:
    """Random crops, the more textured half of twice as many.

    A blurred piece of clear sky looks like the sky: no viewer could see its quality, and its
    label would be noise.

    Args:
        pixels: [H, W, 3], both sides at least `CROP`.
        count: how many.
        rng: decides the positions.

    Returns:
        `count` arrays of shape [CROP, CROP, 3].
    """
    height, width = pixels.shape[:2]
    tops = rng.integers(0, height - CROP + 1, size=2 * count)
    lefts = rng.integers(0, width - CROP + 1, size=2 * count)
    crops = [
        pixels[top : top + CROP, left : left + CROP] for top, left in zip(tops, lefts, strict=True)
    ]
    ranked = sorted(range(len(crops)), key=lambda i: -texture(crops[i]))
    return [crops[i] for i in sorted(ranked[:count])]


@dataclass(frozen=True)
class _Planned:
    """One image of the set before it is made: `distortion` at `level` on a photograph's crop."""

    name: str
    crop: int
    distortion: Distortion
    level: int

    def rated(self) -> tuple[float, float]:
        """Label and standard deviation."""
        return rate(self.distortion, self.level, stream(SEED, self.name, "raters"))


def _planned(photograph: Photograph) -> Iterator[_Planned]:
    """Every image of one photograph, in the order of the label file."""
    for number in range(CROPS[photograph.split]):
        for code, distortion in enumerate(DISTORTIONS):
            level = LEVELS[(number + code) % len(LEVELS)]
            name = f"{photograph.name}{number:02d}_{code + 1:02d}_{level:02d}.png"
            yield _Planned(name, number, distortion, level)


def _save(pixels: Pixels, path: Path) -> None:
    Image.fromarray(to_bytes(pixels)).save(path, format="PNG", compress_level=1)


def write_demo_set(folder: Path, advance: Callable[[int], None] = lambda images: None) -> None:
    """Writes the whole set into an empty folder.

    Args:
        folder: receives `dmos.csv`, `images/` and `splits/{train,val,test}.txt`.
        advance: given of every image.

    Raises:
        DataError: see `load_photograph`.
    """
    (folder / "images").mkdir()
    for photograph in PHOTOGRAPHS:
        pixels = load_photograph(photograph)
        _save(pixels, folder / "images" / photograph.reference)
        count = CROPS[photograph.split]
        crops = draw_crops(pixels, count, stream(SEED, photograph.name, "crops"))
        for image in _planned(photograph):
            noise = stream(SEED, image.name, "pixels")
            damaged = image.distortion.apply(crops[image.crop], image.level, noise)
            _save(damaged, folder / "images" / image.name)
            advance(1)
    write_labels(folder)


def write_labels(folder: Path) -> None:
    """Writes the set's `dmos.csv` and `splits/` into a folder; no image is needed."""
    (folder / "splits").mkdir()
    with (folder / "dmos.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("dist_img", "ref_img", "dmos", "var"))
        for photograph in PHOTOGRAPHS:
            for image in _planned(photograph):
                mean, deviation = image.rated()
                row = (image.name, photograph.reference, f"{mean:.2f}", f"{deviation:.4f}")
                writer.writerow(row)
    for split in CROPS:
        names = [photograph.reference for photograph in PHOTOGRAPHS if photograph.split == split]
        (folder / "splits" / f"{split}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


def default_cache_dir() -> Path:
    """`$VQR1_CACHE`, else `vqr1` under `$XDG_CACHE_HOME`, else `~/.cache/vqr1`."""
    if chosen := os.environ.get("VQR1_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "vqr1"


def ensure_demo_set(cache_dir: Path | None = None) -> Path:
    """The demo set's folder, generated on first use.

    Several processes may call this at once: one generates under a file lock, the others wait. The
    set is written beside its place and renamed, so a folder that exists is complete.

    Args:
        cache_dir: where generated sets live; None is `default_cache_dir()`.

    Returns:
        Folder with `dmos.csv`, `images/` and `splits/`.

    Raises:
        DataError: a photograph is missing or differs from the one the set is defined on.
    """
    cache = cache_dir or default_cache_dir()
    folder = cache / FOLDER
    if folder.is_dir():
        return folder
    make_folder(cache)
    with FileLock(cache / f"{FOLDER}.lock"):
        if folder.is_dir():
            return folder
        for left in cache.glob(f"{FOLDER}-*.split"):  # of processes that were killed
            shutil.rmtree(left, ignore_errors=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f"{FOLDER}-", suffix=".split", dir=cache))
        try:
            total = sum(CROPS[photograph.split] for photograph in PHOTOGRAPHS) * len(DISTORTIONS)
            with progress_bar("demo set", total, console=Console(stderr=True)) as advance:
                write_demo_set(unfinished, advance)
            # mkdtemp makes the folder private; the cache may be shared between users.
            unfinished.chmod(0o755)
            place_folder(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder
