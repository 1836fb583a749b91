"""The table of a sweep: a row for each setting, averaged over its seeds. Pure functions.

    mean     over the seeds of a setting
    std      unbiased, over the seeds
    interval mean -+ t * std / sqrt(n), Student's t with n - 1 degrees of freedom
    against the first row: differences of the seeds that both have, their mean with such an
             interval, and the two-sided p of Student's paired t-test

With one seed there is neither interval nor test, and none is shown.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats

from vqr1.evaluation.metrics import higher_is_better
from vqr1.sweeps.folder import FINISHED
from vqr1.sweeps.jobs import SEED
from vqr1.sweeps.results import JobResult

LEVEL = 0.95


@dataclass(frozen=True)
class MeanInterval:
    """A mean with its interval; low and high are NaN where one value gives none."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class SettingRow:
    """One setting of a sweep.

    Attributes:
        setting: values of the swept keys without the seed.
        jobs: jobs of this setting, finished or not.
        by_seed: value of each finished job by its seed ("" where the seed was not swept).
        missing: how many of the jobs have no value, by the reason.
        mean: over the seeds with its interval; NaN without a finished job.
        std: unbiased; NaN with fewer than two seeds.
        best: highest value, lowest of a metric that falls with quality; NaN without a finished
            job.
        difference: mean difference to the first row over common seeds; None in the first row and
            without a common seed.
        common: seeds that the difference is over.
        p_value: of the paired t-test; None with fewer than two common seeds.
    """

    setting: dict[str, str]
    jobs: int
    by_seed: dict[str, float]
    missing: dict[str, int]
    mean: MeanInterval
    std: float
    best: float
    difference: MeanInterval | None
    common: int
    p_value: float | None


def mean_interval(values: Sequence[float]) -> MeanInterval:
    """Mean of values with its 95 % t interval."""
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        return MeanInterval(math.nan, math.nan, math.nan)
    mean = float(array.mean())
    if len(array) < 2:
        return MeanInterval(mean, math.nan, math.nan)
    error = float(array.std(ddof=1)) / math.sqrt(len(array))
    reach = _t_quantile(len(array) - 1) * error
    return MeanInterval(mean, mean - reach, mean + reach)


@cache
def _t_quantile(freedom: int) -> float:
    """Half width of the interval in standard errors; the sweep's rows are of few sizes."""
    return float(stats.t.ppf(0.5 + LEVEL / 2, freedom))


def paired_p_value(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Two-sided p of the paired t-test; None with fewer than two pairs, 1 for equal values."""
    differences = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    if len(differences) < 2:
        return None
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    if error == 0:
        return 1.0 if differences[0] == 0 else 0.0
    return float(2 * stats.t.sf(abs(float(differences.mean()) / error), len(differences) - 1))


def setting_of(result: JobResult) -> tuple[tuple[str, str], ...]:
    """The swept values of a job without its seed."""
    return tuple((key, value) for key, value in result.swept.items() if key != SEED)


def setting_rows(results: Sequence[JobResult], metric: str | None) -> list[SettingRow]:
    """The rows of a summary, in the order in which the settings first occur.

    Args:
        results: jobs of one sweep.
        metric: the metric; None where no job has one.
    """
    settings: dict[tuple[tuple[str, str], ...], list[JobResult]] = {}
    for result in results:
        if result.swept:
            settings.setdefault(setting_of(result), []).append(result)
    rises = _rises(metric, results)
    rows: list[SettingRow] = []
    for setting, members in settings.items():
        values: dict[str, float] = {}
        missing: Counter[str] = Counter()
        for result in members:
            reason = why_missing(result, metric)
            if reason is not None:
                missing[reason] += 1
            elif metric is not None:
                values[result.swept.get(SEED, "")] = result.metrics[metric]
        first = rows[0] if rows else None
        best = _best(values.values(), rises)
        rows.append(_row(dict(setting), len(members), values, missing, first, best))
    return rows


def best_of(
    metric: str | None, values: Iterable[float], results: Sequence[JobResult] = ()
) -> float:
    """The best of a metric's values; NaN where there is none.

    Args:
        metric: as it is logged.
        values: of it.
        results: jobs that logged it, which know which metrics of the user's own fall with quality.
    """
    return _best(values, _rises(metric, results))


def _rises(metric: str | None, results: Sequence[JobResult]) -> bool:
    """Whether a metric is better where it is higher."""
    falling = {name for result in results for name in result.falling}
    return metric is None or higher_is_better(metric, falling=falling)


def _best(values: Iterable[float], rises: bool) -> float:
    return max(values, default=math.nan) if rises else min(values, default=math.nan)


def why_missing(result: JobResult, metric: str | None) -> str | None:
    """Why a job has no value of a metric; None where it has one."""
    if result.status != FINISHED:
        return result.status.lower()
    if metric is None or metric not in result.metrics:
        return "not logged"
    # A correlation of equal values, for example.
    return None if math.isfinite(result.metrics[metric]) else "undefined"


def _row(
    setting: dict[str, str],
    jobs: int,
    values: dict[str, float],
    missing: Mapping[str, int],
    first: SettingRow | None,
    best: float,
) -> SettingRow:
    metrics = list(values.values())
    difference, p_value, common = None, None, []
    if first is not None:
        common = [seed for seed in values if seed in first.by_seed]
        ours = [values[seed] for seed in common]
        theirs = [first.by_seed[seed] for seed in common]
        if common:
            difference = mean_interval(np.subtract(ours, theirs).tolist())
        p_value = paired_p_value(theirs, ours)
    return SettingRow(
        setting,
        jobs,
        values,
        dict(missing),
        mean_interval(metrics),
        float(np.std(metrics, ddof=1)) if len(metrics) > 1 else math.nan,
        best,
        difference,
        len(common),
        p_value,
    )
