"""Subsets of a split: drawn by name, like the whole, and one for all who take one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, spearmanr

from vqr1.cli.compose import compose_config
from vqr1.cli.options import load_data_config
from vqr1.config import DatasetConfig, LoaderConfig, SplitConfig
from vqr1.data.datamodule import RankingDataModule
from vqr1.data.demo import write_labels
from vqr1.data.distortions import DISTORTIONS
from vqr1.data.inspection import split_table
from vqr1.data.labelled_set import LabelledSet, open_dataset, read_labels
from vqr1.data.ranking_images import RankingImages
from vqr1.data.splits import draw_subset
from vqr1.evaluation.labels import label_tables, whole_sets

NAMES = [f"{letter}.png" for letter in "abcdefgh"]
MakeCsv = Callable[..., DatasetConfig]


def test_hand_computed_subset() -> None:
    # `printf 0:val:f.png | sha256sum` and so on: f 3022, b 4d04, h 6dcb, e 79d0, c 8d22, d b9b7,
    # g d329, a fb93.
    assert draw_subset(NAMES, 1, 0, "val") == [5]
    assert draw_subset(NAMES, 4, 0, "val") == [1, 4, 5, 7]
    assert draw_subset(NAMES, 7, 0, "val") == [1, 2, 3, 4, 5, 6, 7]
    assert draw_subset(NAMES, 8, 0, "val") == draw_subset(NAMES, 99, 0, "val") == list(range(8))
    assert draw_subset(NAMES, 4, 0, "test") != draw_subset(NAMES, 4, 0, "val")
    assert draw_subset(NAMES, 4, 1, "val") != draw_subset(NAMES, 4, 0, "val")


@given(order=st.permutations(NAMES), count=st.integers(1, 8), seed=st.integers(0, 99))
def test_rows_may_come_in_any_order_and_subsets_are_nested(
    order: list[str], count: int, seed: int
) -> None:
    drawn = draw_subset(order, count, seed, "train")
    assert drawn == sorted(drawn)
    names = {order[i] for i in drawn}
    assert len(names) == count
    assert names == {NAMES[i] for i in draw_subset(NAMES, count, seed, "train")}
    assert names <= {order[i] for i in draw_subset(order, count + 1, seed, "train")}


def labels_only(dataset: str, root: Path, **split: Any) -> LabelledSet:
    """A set with its default configuration, of which only the label file is there."""
    overrides = [f"dataset={dataset}", f"dataset.root={root}"]
    config = load_data_config(overrides + [f"dataset.split.{k}={v}" for k, v in split.items()])
    assert isinstance(config.dataset, DatasetConfig)
    table = read_labels(config.dataset, root, "dataset")
    table["mos_scaled"], table["std_scaled"] = table["mos"], table["std_mos"]
    return LabelledSet(dataset, config.dataset, "dataset", dataset, root, table)


def validated(labelled: LabelledSet, max_images: int | None) -> list[str]:
    """Names of the images that a training validates on."""
    sets = {labelled.name: labelled}
    prompts: Any = SimpleNamespace(images=1)  # nothing is decoded
    loader = LoaderConfig(batch_size=8)
    data = RankingDataModule(labelled.config, loader, prompts, 0, max_images, sets=sets)
    source = data.val_dataloader().dataset
    assert isinstance(source, RankingImages)
    return [image for (image,) in source.sets[labelled.name].images]


def default_limit() -> int:
    """`validation.max_images` as a training has it."""
    limit = compose_config("train").validation.max_images
    assert isinstance(limit, int)
    return limit


@pytest.mark.parametrize("seed", range(5))
def test_validation_on_kadid_is_like_the_whole_split(seed: int, shared: Path) -> None:
    labelled = labels_only("kadid", shared / "labels" / "kadid", seed=seed)
    whole = labelled.rows("val")
    drawn = whole[whole["image"].isin(validated(labelled, default_limit()))]
    assert (len(whole), len(drawn)) == (2000, 200)

    def levels(rows: pd.DataFrame) -> np.ndarray:
        return rows["image"].str[-5].value_counts().reindex(list("12345"), fill_value=0).to_numpy()

    # Every level is a fifth of the split.
    assert levels(whole).tolist() == [400] * 5
    assert chisquare(levels(drawn)).pvalue > 0.01
    assert drawn["distortion"].nunique() == 25

    def srcc_of_noisy(rows: pd.DataFrame) -> float:
        rng = np.random.default_rng(0)
        noisy = [rows["mos"] + rng.normal(0, 0.5, len(rows)) for _ in range(20)]
        return float(np.mean([spearmanr(scores, rows["mos"]).statistic for scores in noisy]))

    assert srcc_of_noisy(drawn) == pytest.approx(srcc_of_noisy(whole), abs=0.03)


@pytest.mark.parametrize("count", [None, 40])
def test_validation_on_the_demo_set_has_all_distortions(count: int | None, tmp_path: Path) -> None:
    write_labels(tmp_path)
    labelled = labels_only("demo", tmp_path)
    limit = count or default_limit()
    names = validated(labelled, limit)
    rows = labelled.table[labelled.table["image"].isin(names)]
    assert len(rows) == limit
    assert set(rows["distortion"]) == {distortion.name for distortion in DISTORTIONS}


@pytest.mark.medium
def test_training_evaluation_and_inspection_take_the_same_images(shared: Path) -> None:
    labelled = labels_only("kadid", shared / "labels" / "kadid")
    names = validated(labelled, 200)
    limited = LabelledSet(**{
        **vars(labelled), "config": DatasetConfig(**{**vars(labelled.config), "max_images": 200})
    })  # fmt: skip
    assert validated(limited, None) == validated(limited, 500) == names
    assert set(validated(limited, 50)) < set(names)
    table = label_tables(limited.config, "val")["kadid"]
    assert table["image"][table["evaluated"]].tolist() == names
    mos = labelled.table["mos"][labelled.table["image"].isin(names)]
    column = split_table(limited).columns[4]
    assert list(column.cells)[1] == f"{mos.mean():.3f}"


def test_an_evaluation_of_the_whole_set_draws_by_its_seed(shared: Path) -> None:
    def drawn(seed: int) -> set[str]:
        config = DatasetConfig(
            name="kadid", root=str(shared / "labels" / "kadid"), max_images=500,
            split=SplitConfig(by="official", seed=seed),
        )  # fmt: skip
        table = label_tables(config, "all")["kadid"]
        return set(table["image"][table["evaluated"]])

    assert len(drawn(0)) == len(drawn(1)) == 500
    assert drawn(0) != drawn(1)
    # From every split: 6,125 of the 10,125 images train, so about 302 of 500 (standard error 11).
    assert len({name[:3] for name in drawn(0)}) == 81


def test_names_on_disk_do_not_matter(make_csv: MakeCsv) -> None:
    plain = open_dataset(make_csv(9, max_images=4))
    config = make_csv(9, "other", max_images=4)
    folder = Path(str(config.root)) / "images"
    for path in list(folder.iterdir()):
        path.rename(path.with_suffix(".PNG"))
    other = open_dataset(config)
    assert other.rows("train")["image"].str.endswith(".PNG").all()
    assert other.rows("train").index.tolist() == plain.rows("train").index.tolist()
    assert other.sample(3).index.tolist() == plain.sample(3).index.tolist()


def test_the_digest_changes_with_the_subsets_only(make_csv: MakeCsv) -> None:
    split = SplitConfig(by="image", fractions=(0.5, 0.5, 0.0))
    labelled = open_dataset(make_csv(8, split=split))
    whole = labelled.digest()
    assert labelled.digest(4) == labelled.digest(99) == whole
    assert len({whole, labelled.digest(3), labelled.digest(2)}) == 3
    limited = open_dataset(make_csv(8, "limited", split=split, max_images=3))
    assert limited.digest() not in (whole, labelled.digest(3))


def test_all_images_keep_everything_of_the_split_but_its_rule() -> None:
    split = SplitConfig(by="reference", seed=3, near_duplicates="exclude")
    whole = whole_sets(DatasetConfig(name="kadid", root="x", split=split))
    assert isinstance(whole, DatasetConfig)
    assert whole.split == SplitConfig(by="none", seed=3, near_duplicates="exclude")
