"""Every official label file beside the checkout parses to its published counts and direction.

The sign of each set is evaluated by something that the parser does not read, or by the strength of
the distortion that the file name reports.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pytest
from scipy.io import loadmat, savemat
from scipy.stats import spearmanr

from vqr1.data.labelled_set import scale_min_max
from vqr1.data.labels import FORMATS, label_format, load_labels
from vqr1.data.labels._format import LabelSource
from vqr1.data.labels.livec import parse_all

pytestmark = pytest.mark.medium

# name: folder, images, references, lowest, highest
PUBLISHED = {
    "kadid": ("kadid", 10125, 81, 1.0, 4.93),
    "tid": ("tid2013", 3000, 25, 0.24242, 7.21429),
    "koniq": ("koniq", 10073, 0, 3.91176, 88.38889),
    "spaq": ("spaq", 11125, 0, 2.0, 96.0),
    "livec": ("livec", 1162, 0, 3.42, 92.43195),
    "bid": ("bid", 586, 0, 0.163806, 4.919752),
    "csiq": ("csiq", 866, 30, 0.0, 1.0),
    "live": ("live", 779, 29, -2.64469, 111.77001),
    "agiqa3k": ("agiqa3k", 2982, 0, 0.0, 4.48874),
    "sriqa": ("vqr1_release", 1100, 100, 0.0, 100.0),
    "deblur": ("vqr1_release", 1199, 40, 1.0, 5.0),
    "dehaze": ("vqr1_release", 600, 75, 1.0, 5.0),
}


def labels_of(name: str, shared: Path) -> pd.DataFrame:
    return load_labels(name, shared / "labels" / PUBLISHED[name][0])


@pytest.mark.parametrize("name", PUBLISHED)
def test_official_file_has_published_counts_and_range(name: str, shared: Path) -> None:
    table = labels_of(name, shared)
    _, images, references, low, high = PUBLISHED[name]
    assert len(table) == images == label_format(name).images
    assert table["image"].is_unique
    assert table["reference"].nunique() == references
    assert table["mos"].min() == pytest.approx(low, abs=1e-5)
    assert table["mos"].max() == pytest.approx(high, abs=1e-5)
    assert list(table.columns[:5]) == ["image", "mos", "std", "reference", "split"]


def test_biq2021_has_both_splits(shared: Path) -> None:
    table = load_labels("biq2021", shared / "data" / "biq2021")
    assert table["split"].value_counts().to_dict() == {"train": 4000, "test": 1000}
    assert table["mos"].between(0, 1).all()


def test_koniq_official_split(shared: Path) -> None:
    counts = labels_of("koniq", shared)["split"].value_counts().to_dict()
    assert counts == {"train": 7058, "val": 1000, "test": 2015}


def test_standard_deviations(shared: Path) -> None:
    # KADID's first row has var = 0.496, a standard deviation despite its name.
    assert labels_of("kadid", shared)["std"].iloc[0] == 0.496
    assert labels_of("tid", shared)["std"].isna().all()
    assert labels_of("spaq", shared)["std"].isna().all()
    assert labels_of("csiq", shared)["std"].iloc[0] == pytest.approx(0.0612190731)


def test_kadids_var_is_a_standard_deviation(shared: Path) -> None:
    table = labels_of("kadid", shared)
    best = table.loc[table["mos"].idxmax()]
    # 30 ratings of mean 4.93: 28 fives and 2 fours, (28 * 5 + 2 * 4) / 30 = 4.9333, with variance
    # 28/30 * 2/30 = .06222 and standard deviation .24944. (.249 is no variance of 30 such ratings,
    # which at this mean would need a 1 or a 2 and 29 fives: 4.8667 and 4.9.)
    assert best["mos"] == 4.93
    assert best["std"] == pytest.approx(math.sqrt(28 / 30 * 2 / 30), abs=5e-4)
    # Ratings in [1, 5] with mean m have a variance of at most (m - 1)(5 - m).
    bound = (table["mos"] - 1) * (5 - table["mos"]) + 0.02
    assert (table["std"] ** 2 <= bound).all()


def test_koniqs_sd_is_the_standard_deviation_on_the_raters_scale(shared: Path) -> None:
    path = shared / "labels/koniq/koniq10k_distributions_sets.csv"
    table = pd.read_csv(path)
    votes = table[[f"c{k}" for k in range(1, 6)]].to_numpy()
    scale = np.arange(1, 6)
    variance = votes @ scale**2 - (votes @ scale) ** 2
    unbiased = np.sqrt(variance * table["c_total"] / (table["c_total"] - 1))
    assert np.abs(labels_of("koniq", shared)["std"] - unbiased).max() < 1e-9


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("kadid", r"I\d\d_(?:01|03|09|10|11|13)_0(\d)\.png"),  # blurs, compression, noise
        ("tid", r"(?i)i\d\d_(?:01|08|10|11)_(\d)\.bmp"),
        ("csiq", r".*\.(?:AWGN|BLUR|JPEG|jpeg2000)\.(\d)\.png"),
    ],
)
def test_stronger_distortion_scores_lower(name: str, pattern: str, shared: Path) -> None:
    table = labels_of(name, shared)
    level = table["image"].str.extract(pattern)[0].astype(float)
    rows = level.notna()
    assert rows.sum() >= 500
    assert spearmanr(level[rows], table["mos"][rows]).statistic < -0.8


def test_live_originals_are_best(shared: Path) -> None:
    folder = shared / "labels" / "live"
    table = labels_of("live", shared)
    content = loadmat(folder / "dmos_realigned.mat")
    # A pristine copy has DMOS 0, which the reflection about -2.6447 to 111.7700 puts near the top.
    assert content["dmos_new"][content["orgs"] == 1].max() == 0
    turned_zero = -2.64 + 111.77 - 0
    assert (table["mos"] < turned_zero).mean() > 0.95
    first = content["dmos_new"].ravel()[1]  # entry 1 is the first one with orgs == 0
    assert table["image"].iloc[0] == "jp2k/img2.bmp"
    assert table["mos"].iloc[0] == pytest.approx(-2.64 + 111.77 - first)
    assert table["reference"].iloc[0] == "studentsculpture.bmp"
    counts = table["distortion"].value_counts().to_dict()
    assert set(counts) == {"jp2k", "jpeg", "wn", "gblur", "fastfading"}


def test_koniq_follows_the_raters_distribution(shared: Path) -> None:
    with (shared / "labels/koniq/koniq10k_distributions_sets.csv").open() as file:
        rows = list(csv.DictReader(file))
    mean = [sum(k * float(row[f"c{k}"]) for k in range(1, 6)) for row in rows]
    mos = labels_of("koniq", shared)["mos"]
    assert spearmanr(mean, mos).statistic > 0.99
    assert np.polyfit(mean, mos, 1)[0] == pytest.approx(label_format("koniq").std_unit, abs=0.1)


def test_spaq_follows_sharpness(shared: Path) -> None:
    path = shared / "labels/spaq/MOS and Image attribute scores.xlsx"
    sharpness = pd.read_excel(path)["Sharpness"]
    assert spearmanr(sharpness, labels_of("spaq", shared)["mos"]).statistic > 0.5


def test_spaqs_scores_and_the_releases_deviations(shared: Path, tmp_path: Path) -> None:
    for file in ("spaq/MOS and Image attribute scores.xlsx", "vqr1_release/SPAQ_test_all.txt"):
        path = shared / "labels" / file
        (tmp_path / path.name).symlink_to(path)
    table = load_labels("spaq", tmp_path)
    released = {row[0]: float(row[2]) for row in release_rows(shared, "SPAQ_test_all.txt")}
    assert table["std"].tolist() == [released[image] for image in table["image"]]
    scores = pd.DataFrame(table["further"].tolist())
    for name, published in label_format("spaq").scores.items():
        assert (scores[name].min(), scores[name].max()) == pytest.approx(published)
        # All are higher for better images, noisiness too.
        assert spearmanr(scores[name], table["mos"]).statistic > 0.7


def test_agiqa_newer_generators_score_higher(shared: Path) -> None:
    means = labels_of("agiqa3k", shared).groupby("distortion")["mos"].mean()
    assert means["midjourney"] > means["glide"] > 0
    assert means["xl2.2"] > means["AttnGAN"]


def test_sriqa_originals_score_above_a_gan(shared: Path) -> None:
    means = labels_of("sriqa", shared).groupby("distortion")["mos"].mean()
    assert means["Originalx4" if "Originalx4" in means else "Original"] > means["BSRGANx4"]


@pytest.mark.parametrize("name", ["sriqa", "deblur", "dehaze"])
def test_release_texts_are_not_turned(name: str, shared: Path) -> None:
    files = {"sriqa": "SRIQA-Bench", "deblur": "Deblur", "dehaze": "dehaze"}
    lines = (shared / f"labels/vqr1_release/{files[name]}_test_all.txt").read_text().splitlines()
    published = [float(line.split()[2]) for line in lines]
    assert labels_of(name, shared)["mos"].tolist() == published


def test_biq2021_follows_contrast_of_edges(shared: Path) -> None:
    from vqr1.data.images import load_image

    root = shared / "data" / "biq2021"
    table = load_labels("biq2021", root).iloc[::50]
    sharpness = []
    for image in table["image"]:
        grey = np.asarray(load_image(root / "Images" / image).convert("L"), dtype=np.float64)
        sharpness.append(np.log(np.abs(np.diff(grey, axis=0)).mean()))
    assert spearmanr(sharpness, table["mos"]).statistic > 0.1


def release_rows(shared: Path, name: str) -> list[list[str]]:
    text = (shared / "labels" / "vqr1_release" / name).read_text()
    return [line.split() for line in text.splitlines()]


@pytest.mark.parametrize(
    ("name", "file", "low", "high"),
    [
        ("koniq", "KONIQ-10K_test_all.txt", 1, 5),
        ("spaq", "SPAQ_test_all.txt", 1, 5),
        ("bid", "BID_test_all.txt", 0, 100),
        ("agiqa3k", "AGIQA-3K_test_all.txt", 0, 100),
    ],
)
def test_scaled_scores_equal_the_release(
    name: str, file: str, low: float, high: float, shared: Path
) -> None:
    table = labels_of(name, shared)
    scaled = scale_min_max(table["mos"].to_numpy(), name, low, high)
    own = dict(zip(table["image"], scaled, strict=True))
    released = {row[0]: float(row[1]) for row in release_rows(shared, file)}
    assert own.keys() == released.keys()
    worst = max(abs(own[image] - released[image]) for image in released)
    assert worst <= 1e-9 * (high - low)


def test_livec_scores_equal_the_release(shared: Path) -> None:
    rows = parse_all(LabelSource(shared / "labels" / "livec"))
    scaled = scale_min_max(np.array([row.mos for row in rows]), "livec", 0, 100)
    released = release_rows(shared, "LIVEC_test_all.txt")
    assert [row.image for row in rows] == [row[0] for row in released]
    assert np.abs(scaled - [float(row[1]) for row in released]).max() <= 1.1e-4
    assert np.allclose([row.std for row in rows], [float(row[2]) for row in released], atol=1e-4)
    # The raters' seven training images hold neither the lowest nor the highest score, so the set
    # proper has the same scale.
    table = labels_of("livec", shared)
    assert table["mos"].min() == min(row.mos for row in rows)
    assert table["mos"].max() == max(row.mos for row in rows)


@pytest.mark.parametrize(("name", "file"), [("koniq", "KONIQ-10K"), ("agiqa3k", "AGIQA-3K")])
def test_released_deviations_are_unscaled(name: str, file: str, shared: Path) -> None:
    released = [float(row[2]) for row in release_rows(shared, f"{file}_test_all.txt")]
    assert labels_of(name, shared)["std"].tolist() == pytest.approx(released, rel=1e-12)


def test_kadid_equals_the_release_exactly(shared: Path) -> None:
    table = labels_of("kadid", shared).set_index("image")
    table["scaled"] = scale_min_max(table["mos"].to_numpy(), "kadid")
    for part, images in (("train", 6125), ("val", 2000), ("test", 2000)):
        released = release_rows(shared, f"KADID-10K_{part}_set.txt")
        assert len(released) == images
        rows = table.loc[[row[1] for row in released]]
        assert rows["split"].unique().tolist() == [part]
        assert rows["reference"].tolist() == [row[0] for row in released]
        assert rows["scaled"].tolist() == [float(row[2]) for row in released]
        # The release took the root of the standard deviations, as if they were variances. 244 of
        # its roots differ in their last bit from the correctly rounded one.
        roots = np.array([float(row[3]) for row in released])
        assert (np.abs(np.sqrt(rows["std"]) - roots) <= np.spacing(roots)).all()


def test_csiq_forms_agree(shared: Path) -> None:
    sheet = labels_of("csiq", shared).set_index("image")
    text = load_labels("csiq", shared / "labels/csiq", label_file="csiq_label.txt")
    text = text.set_index("image")
    assert sheet.index.sort_values().tolist() == text.index.sort_values().tolist()
    assert (sheet["mos"] - text["mos"]).abs().max() < 1e-6
    assert (sheet["distortion"] == text["distortion"].reindex(sheet.index)).all()
    assert sheet.loc["1600.AWGN.1.png", "distortion"] == "noise"


def test_bid_spreadsheet_and_text_agree(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.append(["Image Number", "Average Subjective Grade", "Standard Deviation"])
    book.active.append([3, 2.5, 0.5])
    book.active.append([12, 4.0, 0.25])
    book.save(tmp_path / "DatabaseGrades.xlsx")
    table = load_labels("bid", tmp_path)
    assert table["image"].tolist() == ["DatabaseImage0003.JPG", "DatabaseImage0012.JPG"]
    assert table["mos"].tolist() == [2.5, 4.0]
    assert table["std"].tolist() == [0.5, 0.25]


def test_live_older_file(tmp_path: Path) -> None:
    dmos = np.linspace(0, 100, 982)
    originals = np.zeros(982)
    originals[5] = 1
    names = np.empty(982, dtype=object)
    names[:] = "house.bmp"
    savemat(tmp_path / "dmos.mat", {"dmos": dmos, "orgs": originals})
    savemat(tmp_path / "refnames_all.mat", {"refnames_all": names})
    table = load_labels("live", tmp_path)
    assert len(table) == 981
    assert table["mos"].is_monotonic_decreasing
    assert table["std"].isna().all()
    # 227 + 233 + 174 + 174 entries lie before fastfading.
    assert table["image"].iloc[-1] == "fastfading/img174.bmp"


def test_tid_deviations_are_aligned_by_line(tmp_path: Path) -> None:
    (tmp_path / "mos_with_names.txt").write_text("5.5 I01_01_1.bmp\n4.0 i02_24_5.BMP\n")
    (tmp_path / "mos_std.txt").write_text("0.1\n0.2\n")
    table = load_labels("tid", tmp_path)
    assert table["std"].tolist() == [0.1, 0.2]
    assert table["reference"].tolist() == ["I01", "I02"]
    assert table["distortion"].iloc[1] == "sparse sampling and reconstruction"


def test_pipal(tmp_path: Path) -> None:
    folder = tmp_path / "Train_Label"
    folder.mkdir()
    (folder / "A0002.txt").write_text("A0002_01_00.bmp,1000.5\n")
    (folder / "A0001.txt").write_text("A0001_00_00.bmp,1448.96\nA0001_06_20.bmp,1300\n")
    table = load_labels("pipal", tmp_path)
    assert table["image"].tolist() == ["A0001_00_00.bmp", "A0001_06_20.bmp", "A0002_01_00.bmp"]
    assert table["mos"].tolist() == [1448.96, 1300.0, 1000.5]
    assert table["reference"].tolist() == ["A0001", "A0001", "A0002"]
    assert label_format("pipal").published_direction == "higher"


def test_koniq_scores(tmp_path: Path) -> None:
    (tmp_path / "koniq10k_scores_and_distributions.csv").write_text(
        "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,MOS_zscore\n"
        "b.jpg,0,0,25,73,7,105,3.83,0.53,77.4\n"
        "a.jpg,80,20,0,0,0,100,1.2,0.4,8.1\n"
    )
    table = load_labels("koniq_scores", tmp_path)
    assert table["mos"].tolist() == [3.83, 1.2]  # more votes for 4 and 5 means a higher score
    assert table["std"].tolist() == [0.53, 0.4]


def test_lower_is_better_reflects_about_the_observed_range(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,mos\na.png,10\nb.png,25\nc.png,40\n")
    table = load_labels("csv", tmp_path, label_file="labels.csv", lower_is_better=True)
    # 10 + 40 - x
    assert table["mos"].tolist() == [40.0, 25.0, 10.0]


def test_bom_and_crlf_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "dmos.csv").write_bytes(
        b"\xef\xbb\xbfdist_img,ref_img,dmos,var\r\nI01_01_01.png,I01.png,4.57,0.25\r\n"
    )
    table = load_labels("kadid", tmp_path)
    assert table["mos"].tolist() == [4.57]
    assert table["std"].tolist() == [0.25]


def test_every_format_declares_its_own_name() -> None:
    assert len(FORMATS) == 29
    for name in FORMATS:
        assert label_format(name).name == name
