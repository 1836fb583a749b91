"""Splits of the literature by name: published counts, the release's lists, label files' columns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from vqr1.config import SplitConfig
from vqr1.data.labels import load_labels
from vqr1.data.splits import assign_splits
from vqr1.errors import ConfigError, DataError

NOWHERE = Path("nowhere")


def labels(
    name: str, images: Sequence[str], splits: Sequence[dict[str, str]] = (), **columns: Any
) -> pd.DataFrame:
    """A table as `load_labels` gives it."""
    table = pd.DataFrame({"image": list(images), "own_images": [(name,) for name in images]})
    for column in ("reference", "split"):
        values = columns.get(column, [None] * len(images))
        table[column] = pd.Series(list(values), dtype=object)
    table["own_images"] = pd.Series([(image,) for image in images], dtype=object)
    table["splits"] = pd.Series(list(splits) or [{}] * len(images), dtype=object)
    table.attrs["format"] = name
    return table


def by(
    protocol: str | None, table: pd.DataFrame, root: Path = NOWHERE, share: float = 0.0
) -> list[str | None]:
    split = SplitConfig(by="protocol", protocol=protocol, fractions=(1 - share, share, 0.0))
    parts = assign_splits(table, split, root)
    return parts.where(parts.notna(), None).tolist()


# KonIQ-10k: 7,058 + 1,000 + 2,015 images, of which DeQA-Score lists 7,046 and 2,010.
KONIQ = [f"{number}.jpg" for number in range(10073)]
TRAIN, TEST = KONIQ[:7046], KONIQ[8058 : 8058 + 2010]


def meta(names: Sequence[str]) -> str:
    return json.dumps([{"id": n, "image": f"KONIQ/images/{n}", "gt_score": 3.5} for n in names])


def lay(root: Path, train: Sequence[str] = TRAIN, test: Sequence[str] = TEST) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "train_koniq_7k.json").write_text(meta(train))
    (root / "test_koniq_2k.json").write_text(meta(test))


@pytest.mark.parametrize(
    ("name", "place"),
    [("koniq", "."), ("koniq", "metas"), ("koniq", "KONIQ/metas"), ("koniq_scores", "KONIQ/metas"),
     ("koniq", "split.json"), ("koniq", "KONIQ/metas/split.json")],
)  # fmt: skip
def test_deqas_lists_of_koniq(name: str, place: str, tmp_path: Path) -> None:
    if place.endswith("split.json"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(json.dumps({"train": TRAIN, "test": TEST}))
    else:
        lay(tmp_path / place)
    parts = by("deqa", labels(name, KONIQ), tmp_path)
    assert [parts.count(part) for part in ("train", "test", "val", None)] == [7046, 2010, 0, 1017]
    assert (parts[0], parts[7050], parts[8058]) == ("train", None, "test")


def test_validation_is_drawn_from_a_protocols_training(tmp_path: Path) -> None:
    lay(tmp_path)
    parts = by("deqa", labels("koniq", KONIQ), tmp_path, share=0.1)
    # 704.6 of 7,046; the rest of .6 goes to validation.
    assert [parts.count(part) for part in ("train", "val", "test")] == [6341, 705, 2010]


def test_lists_that_are_not_deqas(tmp_path: Path) -> None:
    table = labels("koniq", KONIQ)
    lists = (
        r"needs train_\*.json and test_\*.json, or split.json, of Data-DeQA-Score's KONIQ/metas "
    )
    with pytest.raises(ConfigError, match=lists):
        by("deqa", table, tmp_path)
    lay(tmp_path, TRAIN[1:])
    with pytest.raises(DataError, match=r"'deqa': 7045 train images, published are 7046; another"):
        by("deqa", table, tmp_path)
    lay(tmp_path, TRAIN, [*TEST, "x.jpg"])
    with pytest.raises(DataError, match=r"test_koniq_2k.json:\d+: 'x.jpg' is no image of the set"):
        by("deqa", table, tmp_path)
    lay(tmp_path, TRAIN, [*TEST, KONIQ[0]])
    with pytest.raises(
        DataError, match=r"train_koniq_7k.json:\d+: '0.jpg' is in the test list too"
    ):
        by("deqa", table, tmp_path)
    (tmp_path / "test_koniq_2k.json").write_text('[{"name": "0.jpg"}]')
    with pytest.raises(ConfigError, match=lists):
        by("deqa", table, tmp_path)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("name", "folder", "images"),
    [("csiq", "csiq", 866), ("livec", "livec", 1162), ("agiqa3k", "agiqa3k", 2982),
     ("tid", "tid2013", 3000)],
)  # fmt: skip
def test_sets_that_deqa_tests_on_as_a_whole(
    name: str, folder: str, images: int, shared: Path
) -> None:
    # Counts of `data/manifest_checksums.json` of MR-IQA, which tests on DeQA-Score's lists.
    assert by("deqa", load_labels(name, shared / "labels" / folder)) == ["test"] * images


def test_the_releases_split_of_kadid(shared: Path) -> None:
    table = load_labels("kadid", shared / "labels" / "kadid")
    parts = dict(zip(table["image"], by("visualquality_r1", table), strict=True))
    for part, count in (("train", 6125), ("val", 2000), ("test", 2000)):
        text = (shared / f"labels/vqr1_release/KADID-10K_{part}_set.txt").read_text()
        listed = {line.split()[1] for line in text.splitlines()}
        assert len(listed) == count
        assert {name for name, of in parts.items() if of == part} == listed


@pytest.mark.parametrize(
    "name",
    ["koniq", "koniq_scores", "spaq", "livec", "bid", "agiqa3k", "sriqa", "deblur", "dehaze"],
)
def test_sets_that_the_release_tests_on_as_a_whole(name: str) -> None:
    assert by("visualquality_r1", labels(name, ["a", "b"])) == ["test", "test"]


def test_pyiqas_columns() -> None:
    first = [{"ratio802_seed123_split_01": part} for part in ("train", "val", "train")]
    second = [{"ratio802_seed123_split_02": part} for part in ("test", "train", "val")]
    table = labels("livec", "abc", [a | b for a, b in zip(first, second, strict=True)])
    # Its fifth is called validation in the first; nothing is left to validate with.
    assert by("ratio802_seed123_01", table) == ["train", "test", "train"]
    assert by("ratio802_seed123_split_01", table) == ["train", "test", "train"]
    assert by("ratio802_seed123_02", table) == ["test", "train", "val"]
    with pytest.raises(
        ConfigError,
        match=r"protocol='ratio802_seed123_03': livec has no such split; it has visualquality_r1, "
        r"deqa, ratio802_seed123_01, ratio802_seed123_02 \(column ratio802_seed123_split_03 of py",
    ):
        by("ratio802_seed123_03", table)


@pytest.mark.parametrize(
    ("name", "protocol", "known"),
    [("bid", "deqa", "visualquality_r1"), ("live", "deqa", "none"), ("csv", None, "none")],
)
def test_protocol_that_a_set_lacks(name: str, protocol: str | None, known: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"{protocol!r}: {name} has no such split; it has {known}$"
    ):
        by(protocol, labels(name, ["a"]))


def test_a_protocols_shared_references_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    splits = [{"device": part} for part in ("train", "test", "train")]
    table = labels("piq23", "abc", splits, reference=["scene 1", "scene 1", "scene 2"])
    assert by("device", table) == ["train", "test", "train"]
    assert caplog.messages == [
        "dataset.split.protocol=device: images of 1 references lie in more than one split, as this "
        "protocol has it: a model is tested on content that it was trained on"
    ]
