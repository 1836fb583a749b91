"""Figures of predictions: correlations with intervals, one set or several, and paired gains.

What it does: the figures that training watches and every report starts from. Data sets are never
pooled, since their opinion scales differ: figures of several sets are the plain mean of the sets'
figures, and its interval comes from the sets' independent draws. Images without a score are left
out of the correlations and counted.

What it leaves out: fits, per-reference means and per-distortion rows (`vqr1.evaluation.figures`).

Shape legend: n images, S answers an image, D bootstrap draws.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from vqr1.evaluation.predictions import Predictions, ScoreRule, bootstrap_clusters
from vqr1.iqa.bootstrap import (
    Interval,
    Statistic,
    Units,
    bootstrap_draws,
    interval_of_draws,
    paired_gain_interval,
)
from vqr1.iqa.correlation import (
    Figure,
    FloatArray,
    krcc,
    krcc_figure,
    plcc,
    plcc_figure,
    srcc,
    srcc_figure,
)

CORRELATIONS: dict[str, tuple[Statistic, Callable[..., Figure]]] = {
    "srcc": (srcc, srcc_figure),
    "krcc": (krcc, krcc_figure),
    "plcc": (plcc, plcc_figure),
}
"""By name, in the order of tables: the figure alone, and with the reason where there is none."""

_NOT_DRAWN = Interval(math.nan, math.nan, "no bootstrap draws were asked for")


@dataclass(frozen=True)
class Summary:
    """Figures of one data set, or the plain mean over several.

    Attributes:
        srcc: Spearman's correlation of image scores with opinion scores.
        plcc: Pearson's correlation, without a fit.
        krcc: Kendall's tau-b.
        srcc_interval: 95 % bootstrap interval (over references where images share enough of them,
            otherwise over images: `bootstrap_clusters`).
        plcc_interval: the same of `plcc`.
        krcc_interval: the same of `krcc`.
        n: images.
        n_scored: images with a score: those that enter the correlations.
        invalid_rate: answers that could not be parsed / all answers.
        well_formed_rate: answers of the demanded format / all answers.
        score_std: mean standard deviation of an image's answers, over the images with two valid
            ones or more; NaN with one answer an image.
        n_std: images that enter `score_std`.
        reasons: why a figure is NaN, by its name.
        parts: each set's own summary, where there are several.
    """

    srcc: float
    plcc: float
    krcc: float
    srcc_interval: Interval
    plcc_interval: Interval
    krcc_interval: Interval
    n: int
    n_scored: int
    invalid_rate: float
    well_formed_rate: float
    score_std: float
    n_std: int
    reasons: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, Summary] = field(default_factory=dict)


def summarise(
    predictions: Predictions,
    *,
    rule: ScoreRule = "valid_mean",
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Summary:
    """Correlations, intervals and answer rates of predictions.

    Args:
        predictions: scored images of one or several sets.
        rule: which images have a score.
        draws: bootstrap draws; 0 computes no intervals.
        seed: seed of the draws.
        level: confidence level of the intervals.

    Returns:
        The set's figures; for several sets their plain mean, with each set's own under `parts`. A
        mean over sets is NaN where the figure of any set is.
    """
    sets = predictions.by_dataset()
    figures: dict[str, dict[str, Figure]] = {}
    drawn: dict[str, list[FloatArray]] = {name: [] for name in CORRELATIONS}
    units: list[int] = []
    for dataset, part in sets.items():
        scored, scores = scored_rows(part, rule)
        clusters, _ = bootstrap_clusters(scored)
        units.append(Units.of(len(scored), clusters).count)
        figures[dataset] = {
            name: figure(scores, scored.mos) for name, (_, figure) in CORRELATIONS.items()
        }
        for name, (statistic, _) in CORRELATIONS.items():
            drawn[name].append(
                bootstrap_draws(
                    statistic,
                    scores,
                    scored.mos,
                    clusters=clusters,
                    draws=draws,
                    seed=set_seed(seed, dataset),
                )
            )
    parts = {
        dataset: _summary(
            part,
            rule,
            figures[dataset],
            {
                name: _interval(values[number], units[number], level)
                for name, values in drawn.items()
            },
        )
        for number, (dataset, part) in enumerate(sets.items())
    }
    if len(parts) == 1:
        return next(iter(parts.values()))
    means = {name: _mean_figure(name, figures) for name in CORRELATIONS}
    intervals = {
        name: _interval(np.mean(values, axis=0), min(units), level)
        for name, values in drawn.items()
    }
    return replace(_summary(predictions, rule, means, intervals), parts=parts)


def set_seed(seed: int, dataset: str) -> int:
    """Seed of one set's draws: sets are independent samples, whichever others are evaluated."""
    words = (seed, zlib.crc32(dataset.encode()))
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


def scored_rows(part: Predictions, rule: ScoreRule) -> tuple[Predictions, FloatArray]:
    """The rows that have a score, and their scores."""
    scores = part.image_scores(rule)
    keep = np.isfinite(scores)
    return part.rows(keep), scores[keep]


def _interval(values: FloatArray, units: int, level: float) -> Interval:
    return interval_of_draws(values, units, level) if len(values) else _NOT_DRAWN


def _mean_figure(name: str, figures: Mapping[str, Mapping[str, Figure]]) -> Figure:
    missing = [f"{dataset}: {f[name].reason}" for dataset, f in figures.items() if f[name].reason]
    if missing:
        return Figure(math.nan, "; ".join(missing))
    return Figure(float(np.mean([f[name].value for f in figures.values()])))


def _summary(
    part: Predictions,
    rule: ScoreRule,
    figures: Mapping[str, Figure],
    intervals: Mapping[str, Interval],
) -> Summary:
    spread = part.score_std()
    return Summary(
        srcc=figures["srcc"].value,
        plcc=figures["plcc"].value,
        krcc=figures["krcc"].value,
        srcc_interval=intervals["srcc"],
        plcc_interval=intervals["plcc"],
        krcc_interval=intervals["krcc"],
        n=len(part),
        n_scored=int(np.isfinite(part.image_scores(rule)).sum()),
        invalid_rate=float(1 - part.valid.mean()),
        well_formed_rate=float(part.well_formed.mean()),
        score_std=float(np.nanmean(spread)) if np.isfinite(spread).any() else math.nan,
        n_std=int(np.isfinite(spread).sum()),
        reasons={name: figure.reason for name, figure in figures.items() if figure.reason},
    )


@dataclass(frozen=True)
class Gain:
    """Difference of a figure between two predictors on the images that both score.

    Attributes:
        before: figure of the first, on the common images.
        after: figure of the second, on the common images.
        gain: after - before.
        interval: paired bootstrap interval of the gain.
        n: common images with a score from both.
        left_out: images of the first predictor without a score from both.
    """

    before: float
    after: float
    gain: float
    interval: Interval
    n: int
    left_out: int = 0


def paired_gain(
    before: Predictions,
    after: Predictions,
    *,
    statistic: Statistic = srcc,
    rule: ScoreRule = "valid_mean",
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Gain:
    """Gain of one data set's figure between two predictors, with its paired interval.

    Images are matched by name; those without a score from either predictor are left out of both.

    Args:
        before: predictions of the first predictor.
        after: predictions of the second, of the same set.
        statistic: the figure.
        rule: which images have a score.
        draws: bootstrap draws.
        seed: seed of the draws.
        level: confidence level.

    Raises:
        ValueError: the predictions hold more than one data set or not the same one.
    """
    if set(before.datasets) != set(after.datasets) or len(set(before.datasets)) != 1:
        raise ValueError("a paired gain compares two predictors on one and the same data set")
    first, first_scores = scored_rows(before, rule)
    second, second_scores = scored_rows(after, rule)
    row = {image: i for i, image in enumerate(second.images)}
    pairs = [(i, row[image]) for i, image in enumerate(first.images) if image in row]
    left = np.array([i for i, _ in pairs], dtype=np.int64)
    right = np.array([j for _, j in pairs], dtype=np.int64)
    common = first.rows(left)
    x, y = first_scores[left], second_scores[right]
    was, now = statistic(x, common.mos), statistic(y, common.mos)
    interval = paired_gain_interval(
        statistic,
        x,
        y,
        common.mos,
        clusters=bootstrap_clusters(common)[0],
        draws=draws,
        seed=seed,
        level=level,
    )
    return Gain(was, now, now - was, interval, len(pairs), len(before) - len(pairs))
