"""Photographs with known damage, and the answers that state it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.damage_photographs import main
from tools.small_vlm.damage import CLEAN_MOS, Settings, damaged, draw_damage, draw_names
from vqr1.data.distortions import DISTORTIONS

NAMES = [f"p{number:02d}.png" for number in range(12)]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in NAMES:
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((80, 60), Image.Resampling.BICUBIC).save(folder / name)
    (tmp_path / "table.csv").write_text(
        "Image Name,MOS\n" + "".join(f"{name},0.5\n" for name in NAMES), encoding="utf-8"
    )
    return folder


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, output: Path, *options: str) -> None:
    monkeypatch.setattr(
        "sys.argv", ["damage", "--images", str(folder), "--output", str(output), *options]
    )
    main()


def test_a_set_holds_images_labels_and_two_kinds_of_answers(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    table = ("--names", str(tmp_path / "table.csv"))
    run(monkeypatch, photographs, output, *table, "--count", "10")
    with (output / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["photograph"] for row in rows] == draw_names(NAMES, Settings(count=10))
    plain, thinking = (
        [json.loads(line) for line in (output / name).read_text(encoding="utf-8").splitlines()]
        for name in ("answers.jsonl", "answers_thinking.jsonl")
    )
    for row, short, long in zip(rows, plain, thinking, strict=True):
        with Image.open(output / "images" / row["image"]) as image:
            assert image.size == (288, 288)
        assert short["image"] == long["image"] == row["image"]
        score = float(short["response"])
        assert 1 <= score <= 5
        damage = draw_damage(Settings(), row["photograph"])
        # Four standard deviations of .4, and half of the last digit.
        assert abs(score - damage.mos) < 1.65
        assert float(row["mos"]) == pytest.approx(damage.mos, abs=1e-4)
        answer = f"<answer>{short['response']}</answer>"
        assert long["response"] == f"<think>{damage.words}</think>{answer}"
    first = (output / "images" / "00000.png").read_bytes()
    # The same again elsewhere; a complete folder stays as it is.
    run(monkeypatch, photographs, tmp_path / "again", *table, "--count", "10")
    assert (tmp_path / "again" / "images" / "00000.png").read_bytes() == first
    run(monkeypatch, photographs, output, "--count", "3")
    assert len(list((output / "images").iterdir())) == 10


@pytest.mark.parametrize("count", ["0", "-5", "2.5"])
def test_a_set_of_no_photographs_is_refused(
    count: str,
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    with pytest.raises(SystemExit) as refused:
        run(monkeypatch, photographs, output, f"--count={count}")
    assert refused.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith(f"argument --count: '{count}' is no whole number above 0")
    assert not output.exists()


def test_damage_is_of_every_kind_and_as_strong_as_stated(photographs: Path) -> None:
    drawn = [draw_damage(Settings(), f"image {number}") for number in range(2000)]
    clean = [damage for damage in drawn if damage.kind is None]
    # 200 expected of 2,000, standard deviation sqrt(2000 * .1 * .9) = 13.4.
    assert 146 < len(clean) < 254
    assert {damage.mos for damage in clean} == {CLEAN_MOS}
    kinds = {damage.kind for damage in drawn} - {None}
    assert kinds == set(range(len(DISTORTIONS)))
    mild, strong = (
        next(d for d in drawn if d.kind == 0 and low < d.level < low + 0.5) for low in (1, 4.5)
    )
    assert mild.mos > strong.mos
    assert (mild.words, strong.words) == ("faint blur", "extreme blur")
    with Image.open(photographs / NAMES[0]) as photograph:
        images = [
            np.asarray(damaged(photograph, damage, Settings(side=64), NAMES[0]), dtype=float)
            for damage in (clean[0], mild, strong)
        ]
    # The stronger blur is farther from the photograph at the model's size.
    errors = [float(np.abs(image - images[0]).mean()) for image in images]
    assert 0 == errors[0] < errors[1] < errors[2]


def test_what_cannot_be_read_is_named(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=r"absent\.csv: cannot be read"):
        run(monkeypatch, photographs, tmp_path / "out", "--names", str(tmp_path / "absent.csv"))
    (photographs / NAMES[3]).write_bytes(b"no image")
    with pytest.raises(SystemExit, match=r"p03\.png: not a readable image"):
        run(monkeypatch, photographs, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit, match="not such a set"):
        run(monkeypatch, photographs, photographs)
