"""What a row of labels costs when a set is opened, in memory and in calls, is bounded.

Times and sizes up to a million rows: `scripts/bench_growth.py --axes labels`.
"""

from __future__ import annotations

import os
import sys
import tracemalloc
from pathlib import Path

import pytest

from tests.support.images import noise_image
from vqr1.config import DatasetConfig, SplitConfig
from vqr1.data.opened_sets import open_sets

FEW, MANY = 500, 2500


@pytest.fixture
def sets(tmp_path: Path) -> dict[int, DatasetConfig]:
    """Sets of a user's own of two sizes, whose images are names of one file."""
    found = {}
    for count in (FEW, MANY):
        images = tmp_path / str(count) / "images"
        images.mkdir(parents=True)
        noise_image(0).save(images / "first.png")
        lines = ["image,mos,std"]
        for number in range(count):
            os.link(images / "first.png", images / f"{number:06d}.png")
            lines.append(f"{number:06d}.png,{1 + number % 5},0.5")
        (images / "first.png").unlink()
        (images.parent / "labels.csv").write_text("\n".join(lines))
        found[count] = DatasetConfig(
            name="csv",
            root=str(images.parent),
            label_file="labels.csv",
            split=SplitConfig(by="image", near_duplicates="ignore"),
        )
    return found


def test_memory_of_a_row(sets: dict[int, DatasetConfig]) -> None:
    peaks = {}
    for count, config in sets.items():
        open_sets(config)  # what is imported and remembered once
        tracemalloc.start()
        opened = open_sets(config)
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(opened["csv"].table) == count
    # 509 bytes; 1,767 when each file that was found kept its `stat` result.
    assert (peaks[MANY] - peaks[FEW]) / (MANY - FEW) < 800


def test_calls_of_a_row(sets: dict[int, DatasetConfig]) -> None:
    calls = {}
    for count, config in sets.items():
        open_sets(config)
        counted = 0

        def count_call(frame: object, event: str, argument: object) -> None:
            nonlocal counted
            counted += event in ("call", "c_call")

        sys.setprofile(count_call)
        try:
            open_sets(config)
        finally:
            sys.setprofile(None)
        calls[count] = counted
    # 71, of functions of Python and C; 133 when a row made paths and looked at links.
    assert (calls[MANY] - calls[FEW]) / (MANY - FEW) < 100
