"""Shares with intervals: Wilson's of counts, the bootstrap's of means of numbers in [0, 1].

    Wilson   (p + z^2/2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2/n)    p = k / n

Source: Wilson 1927 (doi:10.1080/01621459.1927.10502953).

Shape legend: n items.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from vqr1.iqa.bootstrap import Interval, interval_of_draws


def wilson_interval(successes: int, count: int, level: float = 0.95) -> Interval:
    """Interval of a share of `count` items.

    >>> interval = wilson_interval(8, 10)
    >>> round(interval.low, 4), round(interval.high, 4)
    (0.4902, 0.9433)
    """
    if not count:
        return Interval(math.nan, math.nan, "no item")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share, added = successes / count, z * z / count
    middle = (share + added / 2) / (1 + added)
    reach = z * math.sqrt(share * (1 - share) / count + added / (4 * count)) / (1 + added)
    return Interval(max(middle - reach, 0.0), min(middle + reach, 1.0))


def mean_interval(
    values: Sequence[float], level: float = 0.95, *, draws: int = 1000, seed: int = 0
) -> Interval:
    """Bootstrap interval of the mean of n numbers, each of which is as likely in a draw."""
    if not values:
        return Interval(math.nan, math.nan, "no item")
    if not draws:
        return Interval(math.nan, math.nan, "no bootstrap draws asked for")
    counts = np.random.default_rng(seed).multinomial(
        len(values), [1 / len(values)] * len(values), size=draws
    )
    return interval_of_draws(counts @ np.asarray(values) / len(values), len(values), level)
