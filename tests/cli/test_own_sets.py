"""Sets in the layout that their owners publish: looked at and trained on by one command each."""

from __future__ import annotations

import io
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.conftest import Command
from tests.support.images import noise_image
from vqr1.cli.data import main as data
from vqr1.cli.train import main as train

pytestmark = pytest.mark.medium

ONE_STEP = (
    "run_dir=run", "max_steps=1", "loader.batch_size=4", "loader.workers=0", "grpo.group_size=2",
    "validation.samples=1", "validation.every_steps=1", "validation.bootstrap_draws=20",
    "validation.max_images=2",
)  # fmt: skip


def folders_of_names(root: Path) -> list[str]:
    """A headerless CSV of names without their subfolder: 40 folders, a third not there."""
    lines = []
    for n in range(60):
        lines.append(f"IMG_{n:04d}.png,{n / 10}\n")
        folder = root / f"scene {n % 40:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        if n % 3:
            noise_image(n).save(folder / f"IMG_{n:04d}.png")
    (root / "all.csv").write_text("".join(lines))
    return [
        "dataset=csv", f"dataset.root={root}", "dataset.label_file=all.csv",
        "dataset.columns.image=0", "dataset.columns.mos=1",
    ]  # fmt: skip


def spreadsheet_by_number(root: Path) -> list[str]:
    """A spreadsheet of MOS by number, the images called by a pattern, another one beside it."""
    root.mkdir()
    book = openpyxl.Workbook()
    book.active.append(["图片编号", "平均分"])
    for n in range(1, 21):
        book.active.append([n, 1 + n / 5])
        noise_image(n).save(root / f"图片{n}.png")
    book.save(root / "MOS.xlsx")
    book.save(root / "pairs.xlsx")
    return [
        "dataset=csv", f"dataset.root={root}", "dataset.label_file=MOS.xlsx",
        "dataset.columns.image=0", "dataset.columns.mos=1", "dataset.columns.header=true",
        "dataset.columns.name_pattern='图片{}.png'",
    ]  # fmt: skip


def folder_a_reference(root: Path) -> list[str]:
    """A headerless CSV, the images of one content in one folder (as SR4KIQA has them)."""
    lines = []
    for content in ("Animal1", "Animal2", "Text1", "Text2"):
        (root / content).mkdir(parents=True)
        for n in range(4):
            name = f"{content}_method{n}.png"
            noise_image(n).save(root / content / name)
            lines.append(f"{name},{n},{len(content)}\n")
    (root / "MOS.csv").write_text("".join(lines))
    return [
        "dataset=csv", f"dataset.root={root}", "dataset.label_file=MOS.csv",
        "dataset.columns.image=0", "dataset.columns.mos=1", "dataset.reference_folder=true",
        "dataset.split.by=reference", "dataset.split.fractions=[0.5,0.25,0.25]",
    ]  # fmt: skip


def parquet(root: Path) -> list[str]:
    """A folder of Parquet with embedded images, as the hub has it."""
    root.mkdir()
    rows: dict[str, list[object]] = {"photo": [], "score": []}
    for n in range(16):
        file = io.BytesIO()
        noise_image(n).save(file, "PNG")
        rows["photo"].append({"bytes": file.getvalue(), "path": f"{n}.png"})
        rows["score"].append(n)
    for split, part in (("train", slice(0, 12)), ("test", slice(12, 16))):
        pq.write_table(pa.table({k: v[part] for k, v in rows.items()}), root / f"{split}.parquet")
    return [
        "dataset=hub", f"dataset.path={root}", "dataset.columns.image=photo",
        "dataset.columns.mos=score", "dataset.alias=photos",
    ]  # fmt: skip


def test_looked_at(run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQR1_CACHE", str(tmp_path / "cache"))
    for make, found in (
        (folders_of_names, "40 images, in"),
        (spreadsheet_by_number, "label form: spreadsheet, sheet 'Sheet'"),
        (folder_a_reference, "│ train │      8 │          2 │"),
        (parquet, "(train 12, test 4)"),
    ):
        arguments = make(tmp_path / make.__name__)
        outcome = run(data, "inspect", "--decode", "all", *arguments)
        assert outcome.code == 0, outcome.err
        assert found in outcome.out
        assert "0 images are undecodable or too narrow" in outcome.out
    assert "photos (hub)" in outcome.out


def test_a_third_missing_names_the_keys_at_once(run: Command, tmp_path: Path) -> None:
    outcome = run(data, "prepare", *folders_of_names(tmp_path / "set"), "--split", "all")
    assert outcome.code == 2
    assert "20 of 60 labelled images cannot be used" in outcome.err
    assert "dataset.on_bad_image=skip dataset.max_bad_share=0.34" in outcome.err
    # Without the numbers of its columns, the first line is reported to be no header.
    outcome = run(data, "inspect", *folders_of_names(tmp_path / "other")[:3])
    assert "no line names the columns, give them by number, from 0" in outcome.err


@pytest.mark.slow
@pytest.mark.parametrize("make", [folders_of_names, spreadsheet_by_number, parquet])
def test_trained_on(
    make: object, run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VQR1_CACHE", str(tmp_path / "cache"))
    arguments = make(tmp_path / "set")  # type: ignore[operator]
    skip = ("dataset.on_bad_image=skip", "dataset.max_bad_share=0.4")
    outcome = run(train, *arguments, *(skip if make is folders_of_names else ()), *ONE_STEP)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "run" / "export" / "training_images.csv").is_file()
