"""Exponents of known costs; every kind of thing that grows, made and measured at a small size."""

from __future__ import annotations

import math
import resource
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import bench_growth
from bench.growth import AXES


def test_the_exponent_is_that_of_what_grows():
    for power in (0.5, 1.0, 2.0):
        costs = {n: 7.0 + 0.01 * (n**power - 10**power) for n in (10, 100, 1000, 10_000)}
        # n^e - 10^e over n - 10, at the two largest sizes.
        assert bench_growth.exponent(costs) == pytest.approx(power, abs=0.05)


def test_what_does_not_grow_has_no_exponent():
    for costs in ({10: 5.0, 100: 5.0, 1000: 4.9}, {10: 1.0, 100: 2.0}):
        assert math.isnan(bench_growth.exponent(costs))


@pytest.mark.medium
@pytest.mark.parametrize("axis", ["labels", "runs", "jobs"])
def test_an_axis_is_made_and_measured(axis, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The measurement itself asserts that all of them were there.
    AXES[axis].make(20, tmp_path)
    AXES[axis].measure(20, tmp_path)


@pytest.mark.medium
def test_imports_are_not_counted():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    counted = bench_growth.in_process("jobs", 10)["cpu"]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert 0 < counted < 0.25 * (after.ru_utime - before.ru_utime)
