"""Sets with several scores an image: `dataset.score` names the MOS, all are label columns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vqr1.data.labels import load_labels
from vqr1.data.labels._format import LabelFormat, LabelRow, Rating
from vqr1.data.labels._scores import chosen_score
from vqr1.errors import ConfigError, DataError

TABLE = """name,mos_quality,std_quality,mos_align,std_align
AttnGAN_normal_000.jpg,1.5,0.25,3.5,0.5
sd1.5_lowcorr_010.jpg,3.0,0.2,2.0,0.75
"""


@pytest.fixture
def agiqa(tmp_path: Path) -> Path:
    (tmp_path / "data.csv").write_text(TABLE)
    return tmp_path


@pytest.mark.parametrize(
    ("score", "mos", "std"),
    [
        (None, [1.5, 3.0], [0.25, 0.2]),
        ("quality", [1.5, 3.0], [0.25, 0.2]),
        ("align", [3.5, 2.0], [0.5, 0.75]),
    ],
)
def test_the_named_score_is_the_mos(
    score: str | None, mos: list[float], std: list[float], agiqa: Path
) -> None:
    table = load_labels("agiqa3k", agiqa, score=score)
    assert table["mos"].tolist() == mos
    assert table["std"].tolist() == std
    assert table["further"].tolist() == [
        {"quality": 1.5, "align": 3.5},
        {"quality": 3.0, "align": 2.0},
    ]


def test_each_score_has_its_own_range(agiqa: Path) -> None:
    # .25 of the ranges 0 to 4.489 and .021 to 4.287: 5.4 is beyond that of `align` alone.
    (agiqa / "data.csv").write_text(TABLE.replace("3.5,0.5", "5.4,0.5"))
    assert len(load_labels("agiqa3k", agiqa)) == 2
    with pytest.raises(DataError, match=r"data.csv:2: score 5.4 is far outside .* 0.021 to 4.287"):
        load_labels("agiqa3k", agiqa, score="align")


def test_scores_that_fall_with_quality_become_rising_columns() -> None:
    declared = LabelFormat(
        "own", "Own", "lower", (0.0, 10.0), (".",), lambda source: [],
        scores={"blur": (0.0, 10.0), "noise": (1.0, 5.0)},
    )  # fmt: skip
    row = LabelRow("a.png", 2.0, "f:1", scores={"blur": Rating(2.0), "noise": Rating(4.5)})
    (chosen,), changed = chosen_score([row], declared, "noise", "dataset")
    assert (chosen.mos, changed.published_range) == (4.5, (1.0, 5.0))
    assert chosen.further == {"blur": 10.0 - 2.0, "noise": 1.0 + 5.0 - 4.5}
    with pytest.raises(DataError, match=r"f:1: no score 'noise' of a\.png"):
        chosen_score([replace(row, scores={"blur": Rating(2.0)})], declared, "noise", "dataset")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("agiqa3k", {}, "dataset.score='beauty': AGIQA-3K has quality, align"),
        ("tid", {}, "dataset.score='beauty': TID2013 has one score; remove the key"),
        ("csv", {"label_file": "data.csv"}, "dataset.score='beauty': .*columns.mos names the"),
    ],
)
def test_a_score_that_is_not_there(
    name: str, options: dict[str, str], message: str, agiqa: Path
) -> None:
    (agiqa / "mos_with_names.txt").write_text("5.5 I01_01_1.bmp\n")
    (agiqa / "data.csv").write_text(TABLE.replace("name", "image").replace("mos_quality", "mos"))
    if name == "agiqa3k":
        (agiqa / "data.csv").write_text(TABLE)
    with pytest.raises(ConfigError, match=message):
        load_labels(name, agiqa, score="beauty", **options)
