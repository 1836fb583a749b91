"""Metrics of a sweep: for every swept key, how its values learn and where they end."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from vqr1.iqa.correlation import FloatArray
from vqr1.sweeps.folder import FINISHED
from vqr1.sweeps.jobs import SEED
from vqr1.sweeps.results import JobResult
from vqr1.sweeps.summary import mean_interval, why_missing

MOST_NAMED = 80
"""Values of a key above which a figure names none of them."""


def key_plot(results: Sequence[JobResult], key: str, curve: str, metric: str) -> Figure:
    """Curves on the left, final metrics on the right, one colour for each value of a key.

    Args:
        results: jobs of one sweep; only finished ones are drawn.
        key: a swept key; jobs that differ in other keys are averaged with their seeds.
        curve: metric of the curves.
        metric: the final figure.
    """
    finished = [r for r in results if r.status == FINISHED and key in r.swept]
    groups: dict[str, list[JobResult]] = {}
    for result in finished:
        groups.setdefault(result.swept[key], []).append(result)
    values = list(groups)
    named = len(values) <= MOST_NAMED
    height = max(4.0, 0.25 * len(values)) if named else 10.0
    figure = Figure(figsize=(10, height), layout="constrained")
    curves, finals = figure.subplots(1, 2, width_ratios=[3, 2])
    if named:
        for place, (value, members) in enumerate(groups.items()):
            colour = f"C{place % 10}"
            _curve(curves, members, value, colour)
            _final(finals, members, metric, place, colour)
    else:
        _many_curves(curves, groups.values())
        _many_finals(finals, groups.values(), metric)
    curves.set_xlabel("optimiser steps")
    curves.set_ylabel(curve)
    curves.set_title("mean; band: lowest to highest run" if named else "mean", fontsize=10)
    curves.grid(alpha=0.3)
    if named and curves.get_legend_handles_labels()[1]:
        curves.legend(title=key, fontsize=8, title_fontsize=8)
    if named:
        finals.set_yticks(range(len(values)), values)
    else:
        finals.set_yticks([])
        finals.set_ylabel(f"{len(values)} values of {key}")
    finals.invert_yaxis()
    finals.set_xlabel(metric)
    finals.set_title("runs, mean and 95 % t interval" if named else "runs and mean", fontsize=10)
    finals.grid(alpha=0.3, axis="x")
    return figure


def _many_curves(axis: Axes, groups: Collection[Sequence[JobResult]]) -> None:
    """The mean curves alone, as one artist: one for each of thousands takes minutes to draw."""
    means = [mean for mean, _ in map(_mean_curve, groups) if len(mean)]
    colours = [f"C{place % 10}" for place in range(len(means))]
    axis.add_collection(LineCollection(means, colors=colours, linewidths=0.8, alpha=0.6))
    axis.autoscale_view()


def _many_finals(axis: Axes, groups: Collection[Sequence[JobResult]], metric: str) -> None:
    """The runs and their means, as one artist each."""
    runs = [
        (result.metrics[metric], place)
        for place, members in enumerate(groups)
        for result in members
        if why_missing(result, metric) is None
    ]
    if not runs:
        return
    values, places = np.array(runs).T
    counts = np.bincount(places.astype(np.int64))
    sums = np.bincount(places.astype(np.int64), values)
    (some,) = counts.nonzero()
    axis.scatter(values, places, s=4, color="C0", alpha=0.4, linewidths=0)
    axis.plot(sums[some] / counts[some], some, "D", markersize=2, color="C1")


def plotted_keys(results: Sequence[JobResult]) -> list[str]:
    """Swept keys that get a figure: all but the seed, or the seed where it is the only one."""
    keys = list(dict.fromkeys(key for result in results for key in result.swept))
    return [key for key in keys if key != SEED] or keys


def _mean_curve(members: Sequence[JobResult]) -> tuple[FloatArray, FloatArray]:
    """[n, 2] steps that all runs with a curve have and the mean there, and values [runs, n]."""
    with_curve = [dict(result.curve) for result in members if result.curve]
    if not with_curve:
        return np.empty((0, 2)), np.empty((0, 0))
    steps = sorted(set.intersection(*(set(points) for points in with_curve)))
    values = np.array([[points[step] for step in steps] for points in with_curve])
    return np.column_stack([steps, values.mean(axis=0)]), values


def _curve(axis: Axes, members: Sequence[JobResult], label: str, colour: str) -> None:
    mean, values = _mean_curve(members)
    if not len(values):
        return
    some = len(values) < len(members)
    over = f" ({len(values)} of {len(members)} runs)" if some else ""
    axis.plot(*mean.T, marker=".", label=f"{label}{over}", color=colour)
    if len(values) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        axis.fill_between(mean[:, 0], low, high, alpha=0.15, color=colour, linewidth=0)


def _final(axis: Axes, members: Sequence[JobResult], metric: str, place: int, colour: str) -> None:
    values = [result.metrics[metric] for result in members if why_missing(result, metric) is None]
    if not values:
        return
    axis.scatter(values, [place] * len(values), s=14, color=colour, alpha=0.6)
    mean = mean_interval(values)
    reach = [[mean.mean - mean.low], [mean.high - mean.mean]] if len(values) > 1 else None
    axis.errorbar(
        [mean.mean], [place + 0.2], xerr=reach, fmt="D", markersize=5, capsize=3, color=colour
    )
