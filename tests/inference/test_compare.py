"""Comparisons of results: probabilities, ranking, and what is excluded."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vqr1.config import ComparisonConfig
from vqr1.errors import DataError
from vqr1.inference.compare import compare
from vqr1.inference.own_files import written_kind
from vqr1.inference.result import Result
from vqr1.inference.writers import Format, write_pairs, write_ranking
from vqr1.iqa.thurstone import GAMMA


def result(path: str, score: float | None, std: float | None, error: str | None = None) -> Result:
    return Result(path, score, std, valid=score is not None, error=error)


def test_two_images_and_those_excluded() -> None:
    results = [
        result("a", 2.0, 0.8),
        result("greedy", 4.0, None),
        result("b", 3.0, 0.6),
        result("broken", None, None, "broken: does not decode"),
        result("mute", None, None),
    ]
    found = compare(results)
    # (3 - 2) / sqrt(.36 + .64 + 1e-6): Phi(.9999995) = .8413446
    assert found.probability(1, 0) == pytest.approx(0.8413446, abs=1e-7)
    assert found.probabilities[1, 0] == found.probability(1, 0)
    assert found.probability(0, 1) + found.probability(1, 0) == pytest.approx(1, abs=1e-12)
    assert [r.path for r in found.excluded] == ["greedy", "broken", "mute"]
    best, second = found.ranking
    assert (best.path, best.rank, best.position, best.score) == ("b", 1, 1, 3.0)
    assert best.win_rate == pytest.approx(0.8413446, abs=1e-7)
    assert second.win_rate == pytest.approx(0.1586554, abs=1e-7)
    assert [(r.rank_low, r.rank_high) for r in found.ranking] == [(1, 2), (1, 2)]


def test_pairs_are_written_row_by_row() -> None:
    scores = np.random.default_rng(0).uniform(1, 5, 20)
    found = compare([result(f"{n}", float(score), 0.5) for n, score in enumerate(scores)])
    stream = io.StringIO()
    write_pairs(stream, found)
    assert "probabilities" not in vars(found)  # the matrix of all
    header, *rows = csv.reader(io.StringIO(stream.getvalue()))
    assert header == ["first", "second", "first_better"]
    assert rows == [
        [str(i), str(j), repr(found.probabilities[i, j].item())]
        for i in range(20)
        for j in range(i + 1, 20)
    ]


def test_ranking_of_many() -> None:
    rng = np.random.default_rng(0)
    results = [
        result(f"{n}", float(score), float(std))
        for n, (score, std) in enumerate(
            zip(rng.uniform(1, 5, 40), rng.uniform(0, 1, 40), strict=True)
        )
    ]
    found = compare(results, seed=4)
    scores = [r.score for r in found.ranking]
    assert scores == sorted(scores, reverse=True)
    assert [r.rank for r in found.ranking] == list(range(1, 41))
    assert all(r.rank_low <= r.rank <= r.rank_high for r in found.ranking)
    assert compare(results, seed=4).ranking == found.ranking
    wide = compare(results, ComparisonConfig(std_scale=3.0), seed=4)
    assert sum(r.rank_high - r.rank_low for r in wide.ranking) > sum(
        r.rank_high - r.rank_low for r in found.ranking
    )
    matrix = found.probabilities
    assert np.abs(matrix + matrix.T - 1).max() < 1e-12


def test_a_ranking_states_what_was_decoded_smaller(tmp_path: Path) -> None:
    results = [replace(result("a", 2.0, 0.8), decoded_at="6000x5000"), result("b", 3.0, 0.6)]
    found = compare(results)
    assert [entry.decoded_at for entry in found.ranking] == [None, "6000x5000"]
    written: dict[Format, list[str]] = {}
    forms: tuple[Format, ...] = ("table", "csv", "jsonl")
    for form in forms:
        file = tmp_path / form
        with file.open("w") as stream:
            write_ranking(stream, form, found)
        written[form] = file.read_text().splitlines()
        assert written_kind(file) == "ranking"
    assert written["table"][2].endswith("  a  (decoded at 6000x5000)")
    assert [line.rsplit(",", 1)[1] for line in written["csv"]] == ["decoded_at", "", "6000x5000"]
    # Rankings of before it was stated are known too.
    (tmp_path / "csv").write_text(written["csv"][0].removesuffix(",decoded_at") + "\n")
    assert written_kind(tmp_path / "csv") == "ranking"


def test_equal_scores_share_a_rank() -> None:
    found = compare([result("a", 2.0, 0.0), result("b", 2.0, 0.0), result("c", 1.0, 0.0)])
    assert [r.rank for r in found.ranking] == [1, 1, 3]
    assert found.probability(0, 1) == 0.5


def test_too_few() -> None:
    with pytest.raises(DataError, match="1 of 2 images have a score with a standard deviation"):
        compare([result("a", 2.0, 0.1), result("b", 3.0, None)])


def test_the_published_gamma() -> None:
    assert ComparisonConfig().gamma == GAMMA
    assert math.isclose(ComparisonConfig().std_scale, 1.0)
