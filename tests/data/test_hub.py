"""Sets in Parquet: the same rows and the same bytes as a folder, or one line."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.support.images import noise_image
from vqr1.cli.options import load_data_config
from vqr1.config import DatasetConfig, LoaderConfig
from vqr1.data.datamodule import RankingDataModule
from vqr1.data.image_record import file_digest
from vqr1.data.labelled_set import LabelledSet, open_dataset
from vqr1.data.near_duplicates import image_hashes
from vqr1.errors import ConfigError, DataError, UserError
from vqr1.policy.prompts import PromptBuilder

EMBEDDED = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQR1_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def config_of(*overrides: str) -> DatasetConfig:
    config = load_data_config(list(overrides)).dataset
    assert isinstance(config, DatasetConfig)
    return config


def opened(path: Path | str, *overrides: str) -> LabelledSet:
    return open_dataset(config_of("dataset=hub", f"dataset.path='{path}'", *overrides))


def encoded(seed: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    noise_image(seed).save(file, kind)
    return file.getvalue()


def write(path: Path, images: list[Any], image: str = "image", **columns: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = EMBEDDED if all(isinstance(cell, dict) for cell in images) else None
    pq.write_table(pa.table({image: pa.array(images, kind), **columns}), path)
    return path


def test_a_folder_of_splits(tmp_path: Path) -> None:
    content = [encoded(0), encoded(1, "JPEG"), encoded(2), encoded(3), encoded(4)]
    paths = ["a.png", None, "sub/b.png", "../c.png", "A.png"]
    rows = [{"bytes": b, "path": p} for b, p in zip(content, paths, strict=True)]
    write(
        tmp_path / "set" / "data" / "train-00000-of-00001.parquet", rows[:3],
        mos=[1.5, 2, 3], sd=[0.1, 0.2, 0.3], kind=["blur", "two\u2028lines", None],
    )  # fmt: skip
    write(
        tmp_path / "set" / "data" / "test-00000-of-00001.parquet", rows[3:],
        mos=[4.0, 5], sd=[0.4, 0.5], kind=["blur", "jpeg"],
    )  # fmt: skip
    labelled = opened(
        tmp_path / "set", "dataset.columns.std=sd", "dataset.columns.distortion=kind",
        "dataset.split.fractions=[1,0,0]",
    )  # fmt: skip
    table = labelled.table
    # The path that a row states of its image, else its split and number: `A.png` is `a.png` again.
    assert table["image"].tolist() == [
        "a.png", "train/000001.jpg", "sub/b.png", "test/000000.png", "test/000001.png",
    ]  # fmt: skip
    assert table["mos"].tolist() == [1.5, 2.0, 3.0, 4.0, 5.0]
    assert table["std"].tolist() == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert table["distortion"].tolist() == ["blur", "two\u2028lines", None, "blur", "jpeg"]
    assert table["split"].tolist() == ["train"] * 3 + ["test"] * 2
    assert [labelled.image_path(row).read_bytes() for row in table.index] == content
    assert labelled.form == f"Parquet, {tmp_path / 'set'} (train 3, test 2)"
    # Read once: the same files again, others where the set has changed.
    assert opened(tmp_path / "set").image_root == labelled.image_root
    write(tmp_path / "set" / "data" / "test-00000-of-00001.parquet", rows[3:4], mos=[4.0])
    assert opened(tmp_path / "set").table["mos"].tolist() == [1.5, 2.0, 3.0, 4.0]
    # Files of one's own lie beside it, not in the cache.
    (tmp_path / "set" / "pairs.csv").write_text("first,second,preference\na,sub/b.png,right\n")
    (tmp_path / "set" / "test.txt").write_text("sub/b.png\n")
    beside = opened(
        tmp_path / "set", "dataset.pairs.file=pairs.csv", "dataset.split.by=files",
        "dataset.split.files={test: test.txt}",
    )  # fmt: skip
    assert beside.pairs is not None
    assert (beside.pairs.stated.first.tolist(), beside.pairs.stated.second.tolist()) == ([0], [2])
    assert beside.rows("test")["image"].tolist() == ["sub/b.png"]


def test_one_file_with_columns_of_its_own(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"photo": datasets.Image(), "r1": datasets.Value("int8"), "r2": datasets.Value("float32"),
         "scene": datasets.ClassLabel(names=["in", "out"]), "at": datasets.Value("timestamp[s]")}
    )  # fmt: skip
    rows = {
        "photo": [{"bytes": encoded(n), "path": None} for n in range(4)],
        "r1": [1, 2, 3, 4], "r2": [2.0, 3.0, None, 6.0], "scene": [0, 0, 1, 1], "at": [0, 1, 2, 3],
    }  # fmt: skip
    file = tmp_path / "mine.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(file))
    labelled = opened(
        file, "dataset.columns.image=photo", "dataset.columns.mos='r*'", "dataset.alias=mine",
        "dataset.columns.reference=scene", "dataset.split.by=reference",
        "dataset.split.fractions=[0.5,0,0.5]",
    )  # fmt: skip
    assert labelled.name == "mine"
    # (1 + 2) / 2, (2 + 3) / 2, 3 alone, (4 + 6) / 2
    assert labelled.table["mos"].tolist() == [1.5, 2.5, 3.0, 5.0]
    assert labelled.table["reference"].tolist() == ["in", "in", "out", "out"]
    assert labelled.table.groupby("reference")["split"].nunique().tolist() == [1, 1]
    bare = write(tmp_path / "bare.parquet", [encoded(7), encoded(8)], mos=[1, 2])
    assert opened(bare).table["image"].tolist() == ["train/000000.png", "train/000001.png"]


@pytest.mark.parametrize(
    ("images", "columns", "overrides", "message"),
    [
        ([b"x"], {"score": [1.0]}, [], r"columns\.mos='mos': no such column; .* has image, score"),
        ([b"x"], {"mos": ["good"]}, [], r"set:train\[0\]: mos='good' is not a number"),
        ([b"x", b"y"], {"mos": [1.0, None]}, [], r"set:train\[1\]: mos=None is not a number"),
        ([b"x", b""], {"mos": [1, 2]}, [], r"set:train\[1\]: no image is embedded$"),
        ([{"bytes": None, "path": "a.jpg"}], {"mos": [1]}, [],
         r"set:train\[0\]: no image is embedded, only the path 'a\.jpg'"),
        (["a.jpg"], {"mos": [1]}, [],
         r"the column 'image' holds no images but string; columns\.image is one of image \(str"),
        ([b"x"], {"mos": [1]}, ["dataset.columns.image=photo"],
         r"the column 'photo' is not there; columns\.image is one of image \(binary\), mos"),
        ([b"x"], {"mos": [1]}, ["dataset.columns.image=0"], r"columns\.image=0: Parquet columns"),
        ([b"x"], {"mos": [1]}, ["+dataset.columns.sheet=A"], r"columns\.sheet: not of a set"),
        ([b"x"], {"mos": [1]}, ["dataset.root=data"], r"dataset\.root='data': a hub set is"),
        ([b"x"], {"mos": [1]}, ["dataset.select=other"], r"cannot be read \(.*'other' not found"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(
    images: list[Any], columns: dict[str, list[Any]], overrides: list[str], message: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    write(tmp_path / "set" / "train.parquet", images, **columns)
    with pytest.raises(UserError, match=message) as caught:
        opened(tmp_path / "set", *overrides)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_sets_that_are_not_here_or_no_parquet(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "none", r"dataset\.path='.*none': no such folder, nor a name on the hub"),
        ("someone/photos", r"dataset\.path='someone/photos': cannot be read \(.*someone/photos"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            opened(path)
        assert "\n" not in str(caught.value)
    for name, text in (("empty", None), ("script", "raise SystemExit('run')")):
        (tmp_path / name).mkdir()
        if text:
            (tmp_path / name / f"{name}.py").write_text(text)
        with pytest.raises(DataError, match=r"no \.parquet file in this folder"):
            opened(tmp_path / name)
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(DataError, match=r"cut\.parquet': cannot be read \("):
        opened(tmp_path / "cut.parquet")
    with pytest.raises(UserError, match=r"dataset\.path='x': of dataset=hub only; csv is at"):
        open_dataset(config_of("dataset=csv", "dataset.root=.", "dataset.path=x"))


def test_a_set_of_the_hub_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    file = write(tmp_path / "there" / "validation.parquet", [encoded(0), encoded(1)], mos=[1, 2])
    asked: list[Any] = []
    load = datasets.load_dataset_builder

    def loaded(path: str, name: str | None = None, **settings: Any) -> Any:
        # What stands for the hub; it must be asked to trust no code.
        asked.append((path, name, settings.pop("revision"), "trust_remote_code" in settings))
        return load(str(file.parent), name, **settings)

    monkeypatch.setattr(datasets, "load_dataset_builder", loaded)
    for _ in range(2):
        labelled = opened("someone/photos@v1", "dataset.split.by=official")
        assert labelled.table["split"].tolist() == ["val", "val"]
    assert asked == [("someone/photos", None, "v1", False)]


def batches(config: DatasetConfig, prompts: PromptBuilder) -> list[Any]:
    data = RankingDataModule(config, LoaderConfig(batch_size=4), prompts, seed=3)
    return list(data.train_dataloader())


@pytest.mark.medium
def test_biq2021_in_parquet_is_the_folder(
    tmp_path: Path, shared: Path, prompts: PromptBuilder
) -> None:
    root = shared / "data" / "biq2021"
    folder = open_dataset(
        config_of(
            "dataset=biq2021", f"dataset.root={root}", "dataset.on_bad_image=skip",
            "dataset.max_bad_share=0.9", "dataset.max_images=24",
        )
    )  # fmt: skip
    own = pd.concat([folder.rows("train"), folder.rows("val"), folder.rows("test")]).sort_index()
    for split, words in (("train", ("train", "val")), ("test", ("test",))):
        rows = own[own["split"].isin(words)]
        cells = [
            {"bytes": folder.image_path(row).read_bytes(), "path": rows["label_name"][row]}
            for row in rows.index
        ]
        write(tmp_path / "set" / f"{split}-00000-of-00001.parquet", cells, mos=rows["mos"].tolist())
    for row in own.index:  # the same images as a folder of one's own
        path = tmp_path / "own" / "images" / own["label_name"][row]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(folder.image_path(row).read_bytes())
    lines = [
        f"{name},{mos!r},{'test' if split == 'test' else 'train'}"
        for name, mos, split in zip(own["label_name"], own["mos"], own["split"], strict=True)
    ]
    (tmp_path / "own" / "labels.csv").write_text("image,mos,split\n" + "\n".join(lines))
    keys = ("dataset.split.by=official", "dataset.split.fractions=[0.9,0.1,0]", "dataset.alias=set")
    table = open_dataset(
        config_of(
            "dataset=csv", f"dataset.root={tmp_path / 'own'}", "dataset.columns.split=split", *keys
        )
    )
    parquet = opened(tmp_path / "set", *keys)
    # The rows of the table are in label order, the training file's first, as in the Parquet files.
    columns = ["image", "mos", "mos_scaled", "split", "label_name"]
    pd.testing.assert_frame_equal(parquet.table[columns], table.table[columns])
    assert parquet.digest() == table.digest()
    files = [[s.image_path(row) for row in s.table.index] for s in (table, parquet)]
    assert list(map(file_digest, files[0])) == list(map(file_digest, files[1]))
    assert image_hashes(files[0]) == image_hashes(files[1])
    drawn = [batches(one.config, prompts) for one in (table, parquet)]
    pairs = list(zip(*drawn, strict=True))
    assert len(pairs) > 3
    for one, other in pairs:
        assert one.images == other.images
        assert torch.equal(one.mos, other.mos)
        for left, right in zip(one.prompts.flat_images, other.prompts.flat_images, strict=True):
            assert torch.equal(left, right)


def test_what_the_library_refuses_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    def gated(*_: Any, **__: Any) -> Any:
        raise datasets.exceptions.DatasetNotFoundError(
            "Dataset 'someone/photos' is a gated dataset on the Hub.\nAsk for access."
        )

    monkeypatch.setattr(datasets, "load_dataset_builder", gated)
    with pytest.raises(DataError) as caught:
        opened("someone/photos")
    assert str(caught.value) == (
        "dataset.path='someone/photos': cannot be read (Dataset 'someone/photos' is a gated "
        "dataset on the Hub.)"
    )
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"dataset\.name=hub: .*pip install 'vqr1\[hub\]'"):
        opened("someone/photos")
