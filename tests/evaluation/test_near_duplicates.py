"""Near-identical images from end to end: a training on a mixture, and evaluations of what it made.

The hash itself and which images leave a split: `tests/data/test_near_duplicates.py`.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.cli.conftest import Command, run  # noqa: F401 - a fixture
from vqr1.cli import evaluate, train
from vqr1.data.jsonl import JsonlLine, write_jsonl

CHEAP = ("loader.batch_size=2", "loader.workers=0", "logger=none", "hardware.threads=1")


def place(file: Path, seed: int, edge: int = 128) -> None:
    """Smooth random shapes; another edge gives a near-identical image in other bytes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    scene = Image.fromarray(pixels).resize((160, 160)).filter(ImageFilter.GaussianBlur(2))
    scene.resize((edge, edge)).save(file, "JPEG", quality=95)


def csv_set(root: Path, seeds: str, splits: str, edge: int = 128) -> None:
    root.mkdir()
    lines = ["image,mos,split"]
    for number, (seed, split) in enumerate(zip(seeds.split(), splits.split(), strict=True)):
        place(root / f"{number}.jpg", int(seed), edge + number)
        lines.append(f"{number}.jpg,{number},{split}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.slow
def test_a_training_and_its_evaluations(
    run: Command,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VQR1_CACHE", str(tmp_path / "cache"))
    # Of this set's training images, 1 is its test image 6 and 2 is the other set's test image 3.
    csv_set(tmp_path / "a", "1 2 3 4 5 6 2 7", "train train train train val val test test")
    other = tmp_path / "b"
    other.mkdir()
    # Training image 0 of the other set is its test image 4, which it only reports.
    for number, seed in enumerate((11, 12, 13, 3, 11)):
        place(other / f"{number}.jpg", seed, 110 + number)
    write_jsonl(other / "l.jsonl", [JsonlLine("B", f"{n}.jpg", float(n)) for n in range(5)])
    for split, numbers in (("train", (0, 1)), ("val", (2,)), ("test", (3, 4))):
        (other / f"{split}.txt").write_text("".join(f"{n}.jpg\n" for n in numbers))
    key_a, key_b = "dataset.parts.csv", "dataset.parts.jsonl"
    mixture = (
        "dataset=csv+jsonl", f"{key_a}.root=a", f"{key_a}.columns.split=split",
        f"{key_a}.split.by=official", f"{key_b}.root=b", f"{key_b}.label_file=l.jsonl",
        f"{key_b}.split.by=files",
        f"{key_b}.split.files={{train:train.txt,val:val.txt,test:test.txt}}",
        *CHEAP, "max_steps=1", "grpo.group_size=2", "validation.samples=1",
        "validation.bootstrap_draws=10", "rollout.sampling.max_new_tokens=8",
    )  # fmt: skip
    found = (
        "csv: 2 images are near-identical to images of a later split: "
        "1.jpg (train) and 6.jpg (test); 2.jpg (train) and 3.jpg of jsonl (test)"
    )
    refused = run(train.main, *mixture, f"{key_a}.split.near_duplicates=refuse", "run_dir=refused")
    assert (refused.code, refused.err) == (
        2,
        f"error: {key_a}.split.near_duplicates=refuse: {found}. {key_a}.split.near_duplicates="
        "exclude leaves these images out\n",
    )
    done = run(train.main, *mixture, f"{key_a}.split.near_duplicates=exclude", "run_dir=run")
    assert done.code == 0, done.err
    assert f"{key_a}.split.near_duplicates=exclude: {found}; excluded" in done.err + done.out
    with (tmp_path / "run" / "training_images.csv").open(newline="") as file:
        recorded = [(row["dataset"], row["split"]) for row in csv.DictReader(file)]
    assert recorded.count(("csv", "train")) == 2
    seen = json.loads((tmp_path / "run" / "summary.json").read_text())["test_trained_on"]
    assert (seen["csv"]["near_identical"], seen["jsonl"]["near_identical"]) == (0, 1)

    # Of five new images one is a training image's near twin, and one is its file.
    csv_set(tmp_path / "new", "1 21 22 23 24", "test test test test test", 200)
    (tmp_path / "new" / "4.jpg").write_bytes((tmp_path / "a" / "3.jpg").read_bytes())
    asked = (
        "dataset=csv", "dataset.root=new", "dataset.split.by=none", "model.path=run/export",
        "mode=greedy", "prompt=non_thinking", *CHEAP, "report.plots=false", "report.worst=0",
        "statistics.bootstrap_draws=0",
    )  # fmt: skip
    for action, images in (("report", 5), ("exclude", 3)):
        keys = (f"dataset.split.near_duplicates={action}", f"run_dir={action}")
        outcome = run(evaluate.main, *asked, *keys)
        assert outcome.code == 0, outcome.err
        values = json.loads((tmp_path / action / "summary.json").read_text())["sets"]["csv"]
        assert values["images"] == images
        with (tmp_path / action / "predictions.csv").open(newline="") as file:
            names = [row["image"] for row in csv.DictReader(file)]
        assert names == [f"{n}.jpg" for n in (range(5) if images == 5 else (1, 2, 3))]
        counted = (values["trained_on"]["trained"], values["trained_on"]["near_identical"])
        assert counted == ((1, 1) if images == 5 else (0, 0))
        printed = (
            "2 of 5 images of csv are, or are near-identical to, images that run/export was "
            "trained on or chosen by; excluded"
        )
        assert (printed in values["warnings"]) == (action == "exclude")
    refused = run(evaluate.main, *asked, "dataset.split.near_duplicates=refuse", "run_dir=no")
    assert refused.code == 2
    (line,) = refused.err.splitlines()
    assert line.startswith("error: dataset.split.near_duplicates=refuse: 2 of 5 images of csv are")
    assert not (tmp_path / "no" / "predictions.csv").exists()
