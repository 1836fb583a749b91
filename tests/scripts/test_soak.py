from __future__ import annotations

from scripts.soak import Sample, lowest, shares, slope


def test_slope_is_the_change_in_100_steps() -> None:
    # 300 MiB at step 500, 1 MiB more every 50 steps: 2 MiB per 100.
    samples = [Sample(500 + 50 * i, 300.0 + i, 90.0 - i, 30, 8) for i in range(10)]
    assert abs(slope(samples, "memory_mib") - 2.0) < 1e-9
    assert abs(slope(samples, "files")) < 1e-9


def test_what_is_held_is_the_least_between_two_reports() -> None:
    samples = [
        Sample(20, 900.0, 50.0, 31, 9),
        Sample(20, 400.0, 60.0, 33, 8),
        Sample(20, 700.0, 40.0, 30, 9),
    ]
    assert lowest(samples) == Sample(20, 400.0, 40.0, 30, 8)


def test_memory_is_what_was_written_and_not_what_a_file_holds() -> None:
    rollup = """5581a4c00000-7ffd3b5f9000 ---p 00000000 00:00 0    [rollup]
Rss:             1282964 kB
Pss:             1046163 kB
Pss_Dirty:        637690 kB
Pss_Anon:         623348 kB
Pss_File:         408473 kB
Pss_Shmem:         14342 kB
"""
    assert shares(rollup) == {"Anon": 623348, "File": 408473, "Shmem": 14342}
