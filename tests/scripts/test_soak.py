from __future__ import annotations

from scripts.soak import Sample, lowest, slope


def test_slope_is_the_change_in_100_steps() -> None:
    # 300 MiB at step 500, 1 MiB more every 50 steps: 2 MiB per 100.
    samples = [Sample(500 + 50 * i, 300.0 + i, 30, 8) for i in range(10)]
    assert abs(slope(samples, "memory_mib") - 2.0) < 1e-9
    assert abs(slope(samples, "files")) < 1e-9


def test_what_is_held_is_the_least_between_two_reports() -> None:
    samples = [Sample(20, 900.0, 31, 9), Sample(20, 400.0, 33, 8), Sample(20, 700.0, 30, 9)]
    assert lowest(samples) == Sample(20, 400.0, 30, 8)
