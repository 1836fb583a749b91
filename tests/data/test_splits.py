"""Splits: the same on every machine, complete, and without a reference on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqr1.config import SplitConfig
from vqr1.data.splits import assign_splits, check_no_leak, draw_splits, hash_order, split_counts
from vqr1.errors import ConfigError, DataError

NOWHERE = Path("nowhere")


def table_of(references: Sequence[str | None], splits: Sequence[str | None] = ()) -> pd.DataFrame:
    images = [f"img {number}.png" for number in range(len(references))]
    frame = pd.DataFrame({"image": images})
    frame["own_images"] = [(image,) for image in images]
    frame["reference"] = pd.Series(list(references), dtype=object)
    frame["split"] = pd.Series(list(splits) or [None] * len(references), dtype=object)
    return frame


def test_draw_is_fixed_for_ever() -> None:
    # `printf 0:a | sha256sum` and so on begin with 9d, e0, be and 7d for a, b, c and d.
    assert hash_order("abcd", 0) == ["d", "a", "c", "b"]
    assert hash_order(["I01", "I02", "I03", "I04", "I05"], 7) == hash_order(
        ["I05", "I04", "I03", "I02", "I01", "I01"], 7
    )


@pytest.mark.parametrize(
    ("total", "fractions", "expected"),
    [
        (81, (0.6, 0.2, 0.2), [49, 16, 16]),  # 48.6, 16.2, 16.2: the rest of 1 goes to .6
        (25, (0.8, 0.1, 0.1), [20, 3, 2]),  # 20, 2.5, 2.5: the tie goes to the first
        (3, (0.8, 0.1, 0.1), [1, 1, 1]),  # 2.4, .3, .3, but nobody stays empty
        (10, (1.0, 0.0, 0.0), [10, 0, 0]),
        (1, (0.5, 0.25, 0.25), [1, 0, 0]),
    ],
)
def test_split_counts(total: int, fractions: Sequence[float], expected: list[int]) -> None:
    assert split_counts(total, fractions) == expected


@given(
    total=st.integers(0, 500),
    weights=st.lists(st.integers(0, 10), min_size=3, max_size=3).filter(any),
)
def test_split_counts_are_near_their_shares(total: int, weights: list[int]) -> None:
    fractions = [weight / sum(weights) for weight in weights]
    counts = split_counts(total, fractions)
    assert sum(counts) == total
    if all(total * fraction >= 1 for fraction in fractions if fraction):
        differences = zip(counts, fractions, strict=True)
        assert all(abs(count - total * share) < 1 for count, share in differences)
    if total >= sum(1 for fraction in fractions if fraction):
        assert all(count > 0 for count, share in zip(counts, fractions, strict=True) if share)


@given(
    references=st.lists(st.integers(0, 20).map(lambda n: f"I{n:02d}"), min_size=1, max_size=80),
    seed=st.integers(0, 2**31),
)
def test_reference_split_never_leaks(references: list[str], seed: int) -> None:
    table = table_of(references)
    split = SplitConfig(by="reference", fractions=(0.6, 0.2, 0.2), seed=seed)
    parts = assign_splits(table, split, NOWHERE)
    assert parts.notna().all()
    sides = {name: set(parts[table["reference"] == name]) for name in references}
    assert all(len(side) == 1 for side in sides.values())
    shuffled = table.iloc[::-1].reset_index(drop=True)
    again = assign_splits(shuffled, split, NOWHERE)
    assert again.iloc[::-1].tolist() == parts.tolist()


def test_seed_decides_the_draw() -> None:
    names = [f"I{number:02d}" for number in range(81)]
    first, second = (draw_splits(names, (0.6, 0.2, 0.2), seed) for seed in (0, 1))
    assert first != second
    assert draw_splits(names, (0.6, 0.2, 0.2), 0) == first


def test_image_split_of_a_set_with_references_is_refused() -> None:
    table = table_of(["I01"] * 20)
    with pytest.raises(DataError, match=r"images of 1 references lie in more than one split \(I01"):
        assign_splits(table, SplitConfig(by="image"), NOWHERE)


def test_leak_check_names_at_most_five() -> None:
    references = pd.Series([f"I{n}" for n in range(7)] * 2)
    parts = pd.Series(["train"] * 7 + ["test"] * 7)
    with pytest.raises(DataError, match=r"of 7 references .*I4, \.\.\."):
        check_no_leak(references, parts, "dataset")
    check_no_leak(references, pd.Series(["train"] * 7 + [None] * 7))


def test_official_split_and_carved_validation() -> None:
    complete = table_of([None] * 3, ["train", "val", "test"])
    official = SplitConfig(by="official", fractions=(0.8, 0.1, 0.1))
    assert assign_splits(complete, official, NOWHERE).tolist() == ["train", "val", "test"]
    without = table_of([None] * 110, ["train"] * 100 + ["test"] * 10)
    parts = assign_splits(without, official, NOWHERE)
    assert parts.value_counts().to_dict() == {"train": 90, "val": 10, "test": 10}
    assert (parts.iloc[100:] == "test").all()


def test_carved_validation_keeps_references_together() -> None:
    references = [f"I{n // 5}" for n in range(50)]
    table = table_of(references, ["train"] * 50)
    parts = assign_splits(table, SplitConfig(by="official", fractions=(0.8, 0.2, 0.0)), NOWHERE)
    assert parts.value_counts().to_dict() == {"train": 40, "val": 10}


def test_whole_set_is_the_test_split() -> None:
    assert assign_splits(table_of(["a", "b"]), SplitConfig(by="none"), NOWHERE).tolist() == [
        "test", "test",
    ]  # fmt: skip


def files_split(tmp_path: Path, **lists: str) -> SplitConfig:
    for part, text in lists.items():
        (tmp_path / f"{part}.txt").write_text(text)
    return SplitConfig(by="files", files={part: f"{part}.txt" for part in lists})


def test_lists_of_references_and_images(tmp_path: Path) -> None:
    table = table_of(["I01.png", "I01.png", "I02.png", None])
    split = files_split(
        tmp_path,
        train="I01.png I01_01_01.png 4.6 0.7\n",  # first field: a reference
        val="i02\n",  # a reference without extension, other letter case
        test="img 3.png\n",  # an image whose name holds a blank
    )
    assert assign_splits(table, split, tmp_path).tolist() == ["train", "train", "val", "test"]


def test_unlisted_rows_are_in_no_part(tmp_path: Path) -> None:
    split = files_split(tmp_path, train="I01.png\n")
    assert assign_splits(table_of(["I01.png", "I02.png"]), split, tmp_path).tolist() == [
        "train", None,
    ]  # fmt: skip


def test_bad_lists(tmp_path: Path) -> None:
    table = table_of(["I01.png", "I01.png", "I02.png"])
    with pytest.raises(DataError, match=r"train.txt:2: 'I77.png' is neither an image nor"):
        assign_splits(table, files_split(tmp_path, train="I01.png\nI77.png\n"), tmp_path)
    with pytest.raises(DataError, match=r"val.txt:1: 'img 0.png' is in the train list too"):
        assign_splits(table, files_split(tmp_path, train="I01\n", val="img 0.png\n"), tmp_path)
    with pytest.raises(DataError, match="lie in more than one split"):
        assign_splits(table, files_split(tmp_path, train="img 0.png", val="img 1.png"), tmp_path)
    missing = SplitConfig(by="files", files={"train": "none.txt"})
    with pytest.raises(ConfigError, match=r"dataset.split.files.train='none.txt': no such file"):
        assign_splits(table, missing, tmp_path)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (SplitConfig(by="reference"), r"dataset.split.by='reference': this set's labels name no"),
        (SplitConfig(by="official"), r"dataset.split.by='official': this set's labels hold no"),
        (SplitConfig(by="image", fractions=(0.8, 0.1, 0.2)), r"they sum to 1.1, must be 1"),
        (SplitConfig(by="files"), r"dataset.split.files=None"),
    ],
)
def test_rule_that_does_not_fit(split: SplitConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        assign_splits(table_of([None, None]), split, NOWHERE)


def test_released_kadid_lists(shared: Path) -> None:
    from vqr1.data.labels import load_labels

    folder = shared / "labels" / "vqr1_release"
    table = load_labels("kadid", shared / "labels" / "kadid")
    split = SplitConfig(
        by="files",
        files={part: f"KADID-10K_{part}_set.txt" for part in ("train", "val", "test")},
    )
    parts = assign_splits(table, split, folder)
    assert parts.value_counts().to_dict() == {"train": 6125, "val": 2000, "test": 2000}
    assert table.groupby(parts)["reference"].nunique().to_dict() == {
        "train": 49, "val": 16, "test": 16,
    }  # fmt: skip
    assert parts.tolist() == table["split"].tolist()
