"""Files of pairs as people have them, sets of pairs only, and batches whose images have pairs."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.test_own_tables import place, write_book
from vqr1.cli.options import load_data_config
from vqr1.config import DatasetConfig
from vqr1.data.labelled_set import LabelledSet, open_dataset
from vqr1.data.pair_batches import PairGraph, linked_steps
from vqr1.data.pair_training import training_pairs
from vqr1.data.ranking_batches import RankingBatchSampler, RankingPlan, plan_epoch
from vqr1.errors import ConfigError, DataError, UserError
from vqr1.iqa.preference_fit import fit_scores
from vqr1.iqa.preferences import StatedPairs


@cache
def composed(*overrides: str) -> DatasetConfig:
    """Composing takes most of a test's time here."""
    config = load_data_config(["dataset=csv", *overrides]).dataset
    assert isinstance(config, DatasetConfig)
    return config


def opened(root: Path, *overrides: str) -> LabelledSet:
    """The set that one command line opens, without an edited file."""
    return open_dataset(replace(composed(*overrides), root=str(root)))


NAMES = tuple(f"DatabaseImage{n:04d}.JPG" for n in range(1, 7))


def with_mos(root: Path, pairs: str, *overrides: str, name: str = "pairs.csv") -> LabelledSet:
    """Six images with MOS by number, and a file of pairs beside them."""
    for image in NAMES:
        place(root / image)
    (root / "mos.csv").write_text("".join(f"{n},{n / 2}\n" for n in range(1, 7)))
    (root / name).write_text(pairs)
    return opened(
        root, "dataset.label_file=mos.csv", "dataset.columns.image=0", "dataset.columns.mos=1",
        "dataset.columns.name_pattern='DatabaseImage{:04}.JPG'", f"dataset.pairs.file={name}",
        *overrides,
    )  # fmt: skip


def stated(labelled: LabelledSet) -> list[tuple[int, int, float, float]]:
    assert labelled.pairs is not None
    p = labelled.pairs.stated
    rows = zip(p.first, p.second, p.preference, p.votes, strict=True)
    return [(int(i), int(j), round(float(q), 6), float(v)) for i, j, q, v in rows]


BY_NUMBER = ("dataset.pairs.first=0", "dataset.pairs.second=1", "dataset.pairs.preference=2")
NAMED = "first,second,preference\n"


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        # Words in any letter case; names by the pattern of the labels.
        (NAMED + "1,2,left\n3,2,B\n4,5,Tie\n", (),
         [(0, 1, 1.0, 1.0), (1, 2, 1.0, 1.0), (3, 4, 0.5, 1.0)]),
        # Votes of one pair in both directions: 2 of 3 for image 1.
        (NAMED + "1,2,a\n2,1,b\n2,1,a\n", (), [(0, 1, 0.666667, 3.0)]),
        ("1;2;1\n2;3;2\n", BY_NUMBER, [(0, 1, 1.0, 1.0), (1, 2, 0.0, 1.0)]),
        ("1\t2\t0\n2\t3\t1\n", (*BY_NUMBER, "dataset.pairs.codes=zero_one"),
         [(0, 1, 1.0, 1.0), (1, 2, 0.0, 1.0)]),
        ("1,2,1\n3,2,-1\n4,5,0\n", (*BY_NUMBER, "dataset.pairs.codes=sign"),
         [(0, 1, 1.0, 1.0), (1, 2, 1.0, 1.0), (3, 4, 0.5, 1.0)]),
        ('1;2;"0,75"\n3;2;1\n', BY_NUMBER, [(0, 1, 0.75, 1.0), (1, 2, 0.0, 1.0)]),
        ("i,j,n,m,e\n1,2,3,1,0\n3,2,0,0,4\n",
         ("dataset.pairs.first=i", "dataset.pairs.second=j", "dataset.pairs.votes=[n,m]",
          "dataset.pairs.equal_votes=e"), [(0, 1, 0.75, 4.0), (1, 2, 0.5, 4.0)]),
        ("1,2,links\n2,3,RECHTS\n3,4,gleich\n",
         (*BY_NUMBER, "dataset.pairs.words={first:[links],second:[rechts],equal:[gleich]}"),
         [(0, 1, 1.0, 1.0), (1, 2, 0.0, 1.0), (2, 3, 0.5, 1.0)]),
        # Names as files: with another letter case, without the ending, without the folder.
        (NAMED + "databaseimage0001.jpg,DatabaseImage0002,left\n",
         ("dataset.pairs.name_pattern='{}'",), [(0, 1, 1.0, 1.0)]),
    ],
)  # fmt: skip
def test_a_table_as_it_is(
    text: str, overrides: tuple[str, ...], expected: list[Any], tmp_path: Path
) -> None:
    assert stated(with_mos(tmp_path, text, *overrides)) == expected


def test_json_lines_and_what_was_counted(tmp_path: Path) -> None:
    lines = ['{"first": "1", "second": 2, "preference": 0.25}', "",
             '{"first": 2, "second": 1, "preference": 1, "comment": "sure"}',
             '{"first": 1, "second": 2, "preference": 1.0}']  # fmt: skip
    labelled = with_mos(tmp_path, "\n".join(lines), name="pairs.jsonl")
    # p of image 1: .25, 0 and 1; the last two rows contradict each other and the first.
    assert stated(labelled) == [(0, 1, round(1.25 / 3, 6), 3.0)]
    assert str(labelled.pairs) == "1 pairs of 3 statements (JSON lines), 1 stated both ways"


def test_spreadsheets_of_mos_and_pairs_by_number(tmp_path: Path) -> None:
    for image in NAMES:
        place(tmp_path / "photos" / image)
    write_book(tmp_path / "MOS.xlsx", Sheet1=[["No.", "MOS"], *([n, n / 2] for n in range(1, 7))])
    every = list(itertools.combinations(range(1, 7), 2))
    rows = [[i, j, 2 if i % 3 else 1] for i, j in every]
    write_book(tmp_path / "pairs.xlsx", Pairs=[["left", "right", "better"], *rows], Notes=[])
    command = (
        "dataset.label_file=MOS.xlsx", "dataset.columns.header=true", "dataset.columns.image=0",
        "dataset.columns.mos=1", "dataset.columns.name_pattern='DatabaseImage{:04}.JPG'",
        "dataset.pairs.file=pairs.xlsx", "dataset.pairs.header=true", *BY_NUMBER,
    )  # fmt: skip
    found = stated(opened(tmp_path, *command))
    assert len(found) == 15
    assert found[0] == (0, 1, 0.0, 1.0)
    assert [p for i, _, p, _ in found if i == 2] == [1.0, 1.0, 1.0]
    # An image that is not there takes its pairs with it, and is counted.
    (tmp_path / "photos" / NAMES[0]).unlink()
    skipping = ("dataset.on_bad_image=skip", "dataset.max_bad_share=0.5")
    labelled = opened(tmp_path, *command, *skipping)
    assert labelled.pairs is not None
    assert labelled.pairs.excluded == 5
    # Image 2 is row 0 now.
    assert stated(labelled)[0] == (0, 1, 0.0, 1.0)


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (NAMED + "1,2,left\n1,9,right\n7,2,left\n", (),
         r"2 images in pairs are not in the labels: 'DatabaseImage0009.JPG' \(.*:3\), .*:4"),
        (NAMED + "1,2,left\n3,3,left\n", (), r":3: image 'DatabaseImage0003.JPG' against itself"),
        (NAMED + "1,2,left\n2,3,middle\n", ("dataset.pairs.codes=words",),
         r":3: preference='middle' is none of left, a, first"),
        (NAMED + "1,2,\n", ("dataset.pairs.codes=words",), r":2: preference='' is none of"),
        (NAMED + "1,2,0.5\n2,3,1.5\n", (), r":3: preference=1\.5 must be in \[0, 1\]"),
        (NAMED + "1,2,nan\n2,3,0.5\n", (), r":2: preference='nan'.*finite"),
        (NAMED + "1,2,0\n2,3,1\n", (), r"pairs.codes=None: column preference .* holds '0', '1'"),
        (NAMED + "1,2,-1\n2,3,1\n", (), r"which may mean several things; set it to zero_one"),
        (NAMED + "1,2,left,x\n", (), r":2: 4 columns, expected 3"),
        ("first,other,preference\n1,2,left\n", (), r"pairs.second='second': no such column"),
        (NAMED + "1,2,left\n", ("dataset.pairs.preference=3",), r"preference=3: no such column"),
        (NAMED + "a,2,left\n", (), r":2: 'a' is no number, as dataset.pairs.name_pattern"),
        ("i,j,n,m\n1,2,-1,2\n",
         ("dataset.pairs.first=i", "dataset.pairs.second=j", "dataset.pairs.votes=[n,m]"),
         r":2: n=-1 votes: must be 0 or more"),
        ("i,j,n,m\n1,2,0,0\n",
         ("dataset.pairs.first=i", "dataset.pairs.second=j", "dataset.pairs.votes=[n,m]"),
         r":2: no vote in this row"),
        (NAMED + "1,2,left\n", ("dataset.pairs.file=../pairs.csv",), r"pairs.file=.*leaves"),
        (NAMED + "1,2,left\n", ("dataset.pairs.file=none.csv",), r"pairs.file=.*no such file"),
        (NAMED + "DatabaseImage0001,databaseimage0001.jpg,left\n",
         ("dataset.pairs.name_pattern='{}'",), r":2: .* are one image"),
        (NAMED + "..\\1,2,left\n", ("dataset.pairs.name_pattern='{}'",), r":2: .*leaves the image"),
        (NAMED, (), r"no pairs"),
        (NAMED + "1,2,left\n", ("dataset.pairs.equal_votes=e",), r"equal_votes='e': name .*votes"),
        (NAMED + "1,2,left\n", ("dataset.pairs.words={first:[x]}", "dataset.pairs.codes=words"),
         r"codes=words, .*words: only one"),
        (NAMED + "1,2,left\n", ("dataset.pairs.votes=[a,b]", "dataset.pairs.codes=words"),
         r"votes: numbers of votes have no codes"),
    ],
)  # fmt: skip
def test_bad_files(text: str, overrides: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        with_mos(tmp_path, text, *overrides)
    assert "\n" not in str(caught.value)


def test_bad_json_lines(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"pairs.jsonl:2: expected an object, found list"):
        with_mos(tmp_path, '{"first": 1, "second": 2, "preference": "a"}\n[1]', name="pairs.jsonl")


def test_a_name_that_fits_two_images(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        place(tmp_path / folder / "a.png")
    (tmp_path / "labels.csv").write_text("image,mos\nx/a.png,1\ny/a.png,2\n")
    (tmp_path / "pairs.csv").write_text(NAMED + "x/a.png,y/a,left\na,y/a.png,left\n")
    with pytest.raises(DataError, match=r"pairs.csv:3: image 'a' fits 2 images of the labels"):
        opened(tmp_path, "dataset.pairs.file=pairs.csv")


def pairs_only(root: Path, lines: list[str], *overrides: str) -> LabelledSet:
    for name in {name for line in lines for name in line.split(",")[:2]}:
        place(root / f"{name}.png")
    (root / "pairs.csv").write_text(NAMED + "\n".join(lines))
    return opened(root, "dataset=pairs", *overrides)


def test_a_set_of_pairs_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    every = itertools.combinations(range(20), 2)
    lines = [f"img{i:02d},img{j:02d},{'left' if i < j else 'right'}" for i, j in every]
    labelled = pairs_only(tmp_path, lines)
    counts = labelled.table["split"].value_counts()
    assert counts.to_dict() == {"train": 16, "val": 2, "test": 2}
    assert "68 of 190 pairs lie across splits" in caplog.text
    # Within a split, an image with a lower number wins over the others.
    for split in ("train", "val", "test"):
        rows = labelled.table[labelled.table["split"] == split].sort_values("image")
        assert rows["mos"].is_monotonic_decreasing
        assert rows["mos"].is_unique
    assert labelled.table["mos_scaled"].max() == 5
    # Scores of training are those of training pairs alone.
    found = training_pairs(labelled)
    assert len(found.stated) == 16 * 15 // 2
    assert (
        str(found)
        == "120 pairs of 16 images; 70 pairs with images outside the training split are not used"
    )
    assert (found.scores.min(), found.scores.max()) == (1, 5)
    one = pairs_only(tmp_path, lines, "dataset.split.by=none")
    assert one.digest() != labelled.digest()
    assert (one.table["split"] == "test").all()
    with pytest.raises(DataError, match="none of the 190 pairs has both images in the training"):
        training_pairs(one)


def test_images_that_pairs_connect_stay_together(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Ten contents of three images, compared within a content only.
    lines = [f"c{c}_{i},c{c}_{j},left" for c in range(10) for i, j in ((0, 1), (1, 2))]
    labelled = pairs_only(tmp_path, lines, "dataset.split.by=reference")
    table = labelled.table.assign(content=labelled.table["label_name"].str[:2])
    assert (table.groupby("content")["split"].nunique() == 1).all()
    assert "across splits" not in caplog.text
    assert "leave 8 groups of images unconnected" in caplog.text
    assert training_pairs(labelled).groups == 8
    # By image, some keep no pair within their split and are in none.
    by_image = pairs_only(tmp_path, lines, "dataset.split.by=image")
    lonely = by_image.table["split"].isna()
    assert lonely.any()
    assert "images without a pair within their split are in none" in caplog.text
    split_of = dict(zip(by_image.table["label_name"], by_image.table["split"], strict=True))
    linked = {name for line in lines for name in line.split(",")[:2]
              if split_of[line.split(",")[0]] == split_of[line.split(",")[1]]}  # fmt: skip
    assert {name for name, split in split_of.items() if split is not None} <= linked


def test_training_needs_pairs(tmp_path: Path) -> None:
    labelled = with_mos(tmp_path, NAMED + "1,2,left\n")
    opened_again = opened(
        tmp_path, "dataset.label_file=mos.csv", "dataset.columns.image=0", "dataset.columns.mos=1",
        "dataset.columns.name_pattern='DatabaseImage{:04}.JPG'",
    )  # fmt: skip
    assert opened_again.pairs is None
    assert opened_again.digest() != labelled.digest()
    with pytest.raises(ConfigError, match=r"target=pairs, dataset\.pairs\.file=None"):
        training_pairs(opened_again)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, set[tuple[int, int]]]:
    n = draw(st.integers(2, 24))
    every = list(itertools.combinations(range(n), 2))
    chosen = draw(st.sets(st.sampled_from(every), max_size=60))
    # Every image stands in a pair: others are not drawn from.
    return n, chosen | {(i, i + 1) for i in range(0, n - 1, 2)} | {(n - 2, n - 1)}


def graph_of(n: int, edges: set[tuple[int, int]]) -> PairGraph:
    ends = np.array(sorted(edges)).T
    none = np.zeros(len(edges))
    return PairGraph.of(StatedPairs.gather(ends[0], ends[1], none + 1, none, none), n)


@given(drawn=graphs(), size=st.integers(2, 6), workers=st.integers(1, 3), seed=st.integers(0, 9))
def test_images_of_a_step_have_pairs(
    drawn: tuple[int, set[tuple[int, int]]], size: int, workers: int, seed: int
) -> None:
    n, edges = drawn
    graph = graph_of(n, edges)
    plan = RankingPlan(seed, {"set": n}, size, workers, graphs={"set": graph})
    ranks = [plan_epoch(plan, epoch=1, rank=rank) for rank in range(workers)]
    # One process with the same global batch takes the same steps.
    alone = RankingPlan(seed, {"set": n}, size * workers, graphs={"set": graph})
    assert [b.step for b in plan_epoch(alone, 1)] == [b.step for b in ranks[0]]
    for batches in zip(*ranks, strict=True):
        step = batches[0].step
        assert {batch.step for batch in batches} == {step}
        assert len(set(step)) == len(step) == min(n, size * workers)
        if n >= size * workers:
            assert [p for batch in batches for p in batch.positions] == list(step)
        # An image joins with a partner unless no image that is left has one in the step.
        for place_, image in enumerate(step[1:], start=1):
            before = set(step[:place_])
            partners = {i for i in set(range(n)) - before
                        if any((min(i, b), max(i, b)) in edges for b in before)}  # fmt: skip
            assert image in partners or not partners
    sampler = RankingBatchSampler(plan)
    sampler.load_state_dict({"epoch": 1, "position": 1, "plan": sampler.state_dict()["plan"]})
    rest = list(sampler)
    if len(ranks[0]) > 1:
        assert rest == ranks[0][1:]
    other = RankingBatchSampler(
        RankingPlan(seed, {"set": n}, size, workers, graphs={"set": graph_of(n, {(0, 1)})})
    )
    if edges != {(0, 1)}:
        with pytest.raises(ConfigError, match="pairs of set was"):
            other.load_state_dict(sampler.state_dict())


def test_every_pair_stated_is_a_permutation_and_pools_are_linked() -> None:
    n = 12
    graph = graph_of(n, set(itertools.combinations(range(n), 2)))
    order = [5, 3, 11, 0, 2, 7, 9, 1, 4, 6, 8, 10]
    assert [i for step in linked_steps(graph, order, 3, 4, 4) for i in step] == order
    # Six images in couples: pools of two are couples, whatever the order.
    couples = graph_of(6, {(0, 3), (1, 4), (2, 5)})
    step = linked_steps(couples, [0, 1, 2, 3, 4, 5], 1, 6, 2)[0]
    assert step == [0, 3, 1, 4, 2, 5]


def test_fitted_scores_of_a_split_know_nothing_of_others(tmp_path: Path) -> None:
    lines = [f"img{i:02d},img{j:02d},left" for i, j in itertools.combinations(range(20), 2)]
    labelled = pairs_only(tmp_path, lines)
    train = labelled.table[labelled.table["split"] == "train"]
    assert labelled.pairs is not None
    places = np.full(20, -1)
    places[train.index] = np.arange(len(train))
    alone = fit_scores(labelled.pairs.stated.renumbered(places), len(train))
    np.testing.assert_allclose(train["mos"], alone, atol=1e-6)
    assert re.fullmatch(r"190 pairs of 190 statements \(columns separated by commas\)",
                        str(labelled.pairs))  # fmt: skip
