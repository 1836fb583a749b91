"""Evaluations that are killed, continued and shared out lose no image and score none twice."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.evaluation.builders import predictions
from tests.evaluation.killable import PLAN, main, scored
from tools.faults import forked
from vqr1.errors import ConfigError, DataError
from vqr1.evaluation.partial_predictions import (
    PlannedBatch,
    check_settings,
    finished_file,
    merge,
    partials,
    plan_digest,
    read_partials,
    remaining,
    with_present_labels,
)
from vqr1.evaluation.prediction_file import (
    PredictionStream,
    read_predictions,
    write_predictions,
)
from vqr1.evaluation.summary import summarise
from vqr1.inference.resume import shares


@pytest.mark.slow
def test_killed_three_times_at_random(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    main(whole, 0.0)
    killed = tmp_path / "killed"
    killed.mkdir()
    rng = random.Random(0)
    kills, sizes = 0, [0]
    while kills < 3:
        process = forked.start(main, killed, 0.2)
        # Some batches must have been committed in this start before it dies.
        deadline = time.monotonic() + 60
        file = partials(killed).of(0)
        while not (file.exists() and file.stat().st_size > sizes[-1] + 2000):
            assert time.monotonic() < deadline
            assert process.is_alive()
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        sizes.append(file.stat().st_size)
        assert finished_file(killed) is None
    last = forked.start(main, killed, 0.0)
    last.join(120)
    assert last.exitcode == 0
    first, second = (read_predictions(folder / "predictions.csv") for folder in (whole, killed))
    assert second.images == tuple(image for batch in PLAN for image in batch.images)
    np.testing.assert_array_equal(second.scores, first.scores)
    assert summarise(second, draws=50) == summarise(first, draws=50)
    assert partials(killed).all() == []


def test_shares_merge_to_the_same_file_whatever_their_number(tmp_path: Path) -> None:
    contents = []
    for processes in (1, 2, 3):
        folder = tmp_path / str(processes)
        folder.mkdir()
        for rank, share in enumerate(shares(range(len(PLAN)), processes)):
            stream = PredictionStream(partials(folder).of(rank))
            for number in share:
                stream.append(scored(PLAN[number], number))
            stream.close()
        merge(folder, PLAN, ".csv")
        contents.append((folder / "predictions.csv").read_bytes())
    assert contents[0] == contents[1] == contents[2]


def test_continuing_with_another_number_of_processes(tmp_path: Path) -> None:
    for rank, numbers in enumerate([[0, 2, 4], [1, 3]]):
        stream = PredictionStream(partials(tmp_path).of(rank))
        for number in numbers:
            stream.append(scored(PLAN[number], number))
        stream.close()
    assert remaining(PLAN, read_partials(tmp_path)) == list(range(5, 40))


def test_a_stream_that_was_killed_before_its_first_batch(tmp_path: Path) -> None:
    PredictionStream(partials(tmp_path).of(0)).close()
    partials(tmp_path).of(1).write_bytes(b'"data')
    assert read_partials(tmp_path) is None
    assert remaining(PLAN, None) == list(range(40))


def test_an_image_scored_twice_is_never_merged(tmp_path: Path) -> None:
    for rank in (0, 1):
        stream = PredictionStream(partials(tmp_path).of(rank))
        stream.append(scored(PLAN[0], 0))
        stream.close()
    with pytest.raises(RuntimeError, match="5 images were scored twice"):
        merge(tmp_path, PLAN, ".csv")


def test_other_settings_are_refused(tmp_path: Path) -> None:
    check_settings(tmp_path, {"mode.samples": 6, "seed": 0})
    check_settings(tmp_path, {"mode.samples": 6, "seed": 0})
    with pytest.raises(ConfigError) as caught:
        check_settings(tmp_path, {"mode.samples": 4, "seed": 1})
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "mode.samples=4",
        "seed=1",
    ]
    assert "was started with 6" in caught.value.problems[0]


def test_a_seed_that_draws_nothing_may_change(tmp_path: Path) -> None:
    """Earlier versions kept it for greedy answers too."""
    for mode in ("greedy", "expected"):
        check_settings(tmp_path / mode, {"mode.name": mode, "seed": 0})
        check_settings(tmp_path / mode, {"mode.name": mode})
    check_settings(tmp_path / "sampled", {"mode.name": "sampled", "seed": 0})
    with pytest.raises(ConfigError, match="seed=1"):
        check_settings(tmp_path / "sampled", {"mode.name": "sampled", "seed": 1})


def test_rows_of_other_images_are_refused(tmp_path: Path) -> None:
    stream = PredictionStream(partials(tmp_path).of(0))
    for number in (0, 1):
        stream.append(scored(PLAN[number], number))
    stream.close()
    with pytest.raises(ConfigError, match=r"5 images were scored there .* the first is 001_0\.png"):
        merge(tmp_path, PLAN[:1], ".csv")


def test_the_digest_reports_names_and_their_order_not_the_batches() -> None:
    def digest(*batches: tuple[str, ...]) -> str:
        return plan_digest([PlannedBatch("demo", batch) for batch in batches], "demo")

    whole = digest(("a", "b"), ("c",))
    assert len(whole) == 64
    assert whole == digest(("a",), ("b", "c"))
    assert len({whole, digest(("b", "a"), ("c",)), digest(("a", "b"), ("d",)), digest()}) == 4
    other = [PlannedBatch("demo", ("a", "b", "c")), PlannedBatch("more", ("a",))]
    assert plan_digest(other, "demo") == whole
    assert plan_digest(other, "more") != digest(("a",))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_finished_file_takes_the_labels_of_now(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"predictions.{suffix}"
    write_predictions(predictions([1.5, np.nan, 3.5], [1, 2, 3]), path)
    before = path.read_bytes()
    table = pd.DataFrame(
        {
            "image": ["new.png", "0.png", "1.png", "2.png"],
            "mos": [9.0, 4.0, 3.0, 2.0],
            "std_mos": [0.9, 0.4, np.nan, 0.2],
            "reference": [None, "r", "r", None],
            "distortion": None,
        }
    )
    found = with_present_labels(tmp_path, read_predictions(path), {"demo": table})
    np.testing.assert_array_equal(found.std, [0.4, np.nan, 0.2])
    again = read_predictions(path)
    for one in (found, again):
        # Found by name: the table has a row more than at the first start.
        np.testing.assert_array_equal(one.index, [1, 2, 3])
        np.testing.assert_array_equal(one.mos, [4, 3, 2])
        np.testing.assert_array_equal(one.scores[:, 0], [1.5, np.nan, 3.5])
        assert one.references == ("r", "r", None)
    assert path.read_bytes() != before
    written = path.stat().st_ino
    with_present_labels(tmp_path, again, {"demo": table})
    assert path.stat().st_ino == written
    with pytest.raises(DataError, match=r"1 scored image of an .* label now: 2\.png; choose"):
        with_present_labels(tmp_path, again, {"demo": table[:3]})
