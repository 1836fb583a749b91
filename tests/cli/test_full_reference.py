"""Rows of a reference and an image, from training to the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.conftest import Command
from tests.cli.test_train import on
from tests.inference.service.conftest import photo
from tests.support.images import noise_image
from tools.faults.small_set import write_kadid
from vqr1.cli import evaluate, score, train
from vqr1.data.image_record import read_record

pytestmark = pytest.mark.medium


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("sharp/a.png", "sharp/b.png", "coded/a.png", "coded/b.jpg")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        photo(number).save(tmp_path / name)
    return tmp_path


def rows_of(file: str) -> list[dict[str, str]]:
    with Path(file).open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_scoring_with_references(run: Command, folder: Path) -> None:
    """One reference, a folder of them, and lists give the same scores; files are continued."""
    short = ("mode=greedy",)
    one = run(score.main, "--reference", "sharp/a.png", "coded", "output=one.csv", *short)
    assert one.code == 0, one.err
    names = ["sharp/a.png + coded/a.png", "sharp/a.png + coded/b.jpg"]
    assert [row["path"] for row in rows_of("one.csv")] == names
    again = run(score.main, "--reference", "sharp/a.png", "coded", "output=one.csv", *short)
    assert again.err.startswith("continuing one.csv: 2 images are in it\n")
    # Other references are other rows.
    run(score.main, "--reference", "sharp", "coded", "output=one.csv", *short)
    rows = {row["path"]: row for row in rows_of("one.csv")}
    assert list(rows) == [*names, "sharp/b.png + coded/b.jpg"]

    Path("pairs.csv").write_text("ref,dist\nsharp/a.png,coded/a.png\nsharp/b.png,coded/b.jpg\n")
    Path("pairs.jsonl").write_text(
        '{"image": ["sharp/a.png", "coded/a.png"]}\n{"image": ["sharp/b.png", "coded/b.jpg"]}\n'
    )
    for given in (["pairs.csv", "column=[ref,dist]"], ["pairs.jsonl"]):
        listed = run(score.main, *given, "prompt=full_reference", "format=jsonl", *short)
        records = [json.loads(line) for line in listed.out.splitlines()]
        assert [record["path"] for record in records] == [names[0], "sharp/b.png + coded/b.jpg"]
        for record in records:
            assert record["text"] == rows[record["path"]]["text"]
    head = "path,score,std,lost,valid,text,error,answers,valid_answers\n"
    known = "".join(f"{name},{n},0.5,0,true,,,,\n" for n, name in enumerate(names, start=2))
    Path("scored.csv").write_text(head + known)
    compared = run(score.main, "--mode", "compare", "results=scored.csv", "format=csv")
    assert compared.code == 0, compared.err
    assert [row["path"] for row in csv.DictReader(compared.out.splitlines())] == names[::-1]
    unreadable = run(score.main, "--reference", "pairs.csv", "coded/a.png", *short)
    assert unreadable.code == 1
    assert "unreadable: pairs.csv + coded/a.png: pairs.csv: " in unreadable.err


@pytest.mark.slow
def test_training_and_evaluation(run: Command, tmp_path: Path) -> None:
    root = write_kadid(tmp_path / "kadid", references=4, levels=3)
    for number in range(1, 5):
        noise_image(number, 56, 56).save(root / "images" / f"I{number:02d}.png")
    pairs = ("prompt=full_reference", "dataset.full_reference=true")
    short = ("rollout.sampling.max_new_tokens=12", "max_steps=2", "validation.test=false")
    outcome = run(train.main, *on(root), *pairs, *short, "logger=csv", "run_dir=run", "seed=3")
    assert outcome.code == 0, outcome.err
    recorded = read_record(tmp_path / "run")
    # References are no images that the run has learnt from.
    assert recorded is not None
    assert {image.split for image in recorded} == {"train", "val"}
    assert len(recorded) == 2 * 3 + 3
    found = run(
        evaluate.main, "dataset=kadid", f"dataset.root={root}", *pairs, "split=all",
        "model.path=run/export", "mode=greedy", "mode.sampling.max_new_tokens=12", "logger=none",
        "run_dir=eval", "statistics.bootstrap_draws=20", "report.plots=false", "report.worst=0",
    )  # fmt: skip
    assert found.code == 0, found.err
    table = pd.read_csv(tmp_path / "eval" / "predictions.csv")
    assert sorted(table["image"].unique()) == sorted(
        pd.read_csv(root / "dmos.csv")["dist_img"].unique()
    )
    values = json.loads((tmp_path / "eval" / "summary.json").read_text())
    assert values["sets"]["kadid"]["trained_on"]["trained"] == 2 * 3
