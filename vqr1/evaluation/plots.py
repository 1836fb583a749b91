"""Plots of one data set: scores against MOS, residuals, calibration; and of compared runs.

What it does: draws what the metrics were computed from, on a canvas without a window. The band
around the fitted curve is the pointwise interval of the curve refitted in bootstrap draws.

Not here: images of the images themselves (`vqr1.evaluation.worst_sheet`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vqr1.evaluation.metric_options import MetricOptions
from vqr1.evaluation.metrics import Measured, headline
from vqr1.evaluation.predictions import Predictions
from vqr1.evaluation.report import number
from vqr1.evaluation.set_metrics import SetMetrics
from vqr1.evaluation.summary import scored_rows, set_seed
from vqr1.iqa.bootstrap import Units, resample_counts
from vqr1.iqa.correlation import FloatArray
from vqr1.iqa.logistic import LogisticFit, fit_logistic

_BAND_DRAWS = 200
_INK, _CURVE, _FAINT = "#1f4e79", "#c8501e", "#9a9a9a"
_PANEL = 4.4


def set_plots(
    predictions: Predictions, metrics: SetMetrics, options: MetricOptions, caption: str
) -> Figure:
    """Scatter with fit, residuals by MOS and, where there is one, calibration.

    Args:
        predictions: rows of the set.
        metrics: its metrics.
        options: how they were computed.
        caption: model and mode, under the title.
    """
    scored, scores = scored_rows(predictions, options.rule)
    fit = metrics.fits[options.curves[0]].fit if options.curves else None
    panels = 1 + (fit is not None and fit.reason is None) + bool(metrics.calibration.bins)
    figure = Figure(figsize=(_PANEL * panels, _PANEL + 0.5), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    clusters = scored.clusters() if metrics.units == "references" else None
    band = None
    if fit is not None and not fit.reason and options.draws:
        band = _band(scores, scored.mos, Units.of(len(scored), clusters), fit, options)
    _scatter(axes[0], scores, scored.mos, metrics, fit, band, options.level)
    if fit is not None and not fit.reason:
        _residuals(axes[1], scored.mos, scored.mos - fit(scores), options)
    if metrics.calibration.bins:
        _calibration(axes[-1], metrics)
    figure.suptitle(f"{metrics.dataset}\n{caption}", fontsize=9)
    return figure


def _band(
    scores: FloatArray, mos: FloatArray, units: Units, fit: LogisticFit, options: MetricOptions
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Score grid, lower and upper end of the curve's pointwise interval."""
    grid = np.linspace(scores.min(), scores.max(), 120)
    curves = []
    for block in resample_counts(units, _BAND_DRAWS, set_seed(options.seed, "band")):
        for counts in block.astype(np.int64):
            rows = np.repeat(np.arange(len(scores)), counts)
            refit = fit_logistic(scores[rows], mos[rows], fit.curve, near=fit)
            if not refit.reason:
                curves.append(refit(grid))
    tail = (1 - options.level) / 2
    low, high = np.quantile(np.stack(curves or [fit(grid)]), [tail, 1 - tail], axis=0)
    return grid, low, high


def _scatter(
    axes: Axes,
    scores: FloatArray,
    mos: FloatArray,
    metrics: SetMetrics,
    fit: LogisticFit | None,
    band: tuple[FloatArray, FloatArray, FloatArray] | None,
    level: float,
) -> None:
    alpha = float(np.clip(120 / max(len(scores), 1), 0.08, 0.6))
    axes.scatter(scores, mos, s=12, alpha=alpha, color=_INK, linewidths=0, rasterized=True)
    if fit is not None and not fit.reason:
        grid = np.linspace(scores.min(), scores.max(), 200)
        axes.plot(grid, fit(grid), color=_CURVE, linewidth=1.8, label=f"{fit.curve[-1]}-p. fit")
    if band is not None:
        axes.fill_between(
            *band, color=_CURVE, alpha=0.2, linewidth=0, label=f"{level:.0%} interval"
        )
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", fontsize=8, frameon=False)
    axes.set_xlabel("predicted score")
    axes.set_ylabel("MOS")
    interval = metrics.srcc.interval
    axes.set_title(
        f"{headline().label} {number(metrics.srcc.value)} "
        f"[{number(interval.low)}, {number(interval.high)}], "
        f"n = {metrics.scored} of {metrics.images}",
        fontsize=9,
    )


def _residuals(axes: Axes, mos: FloatArray, residual: FloatArray, options: MetricOptions) -> None:
    alpha = float(np.clip(120 / max(len(mos), 1), 0.08, 0.6))
    axes.scatter(mos, residual, s=12, alpha=alpha, color=_INK, linewidths=0, rasterized=True)
    axes.axhline(0, color=_FAINT, linewidth=1)
    order = np.argsort(mos, kind="stable")
    parts = np.array_split(order, min(10, max(1, len(mos) // 10)))
    centre = [float(mos[part].mean()) for part in parts]
    mean = [float(residual[part].mean()) for part in parts]
    error = [1.96 * float(residual[part].std()) / np.sqrt(len(part)) for part in parts]
    axes.errorbar(
        centre,
        mean,
        yerr=error,
        color=_CURVE,
        marker="o",
        markersize=4,
        linewidth=1.2,
        capsize=2,
        label="mean of a tenth of the images, ±1.96 s.e.",
    )
    axes.legend(loc="best", fontsize=8, frameon=False)
    axes.set_xlabel("MOS")
    axes.set_ylabel("MOS - fitted score")
    axes.set_title(f"residuals ({options.curves[0][-1]}-p. fit)", fontsize=9)


def _calibration(axes: Axes, metrics: SetMetrics) -> None:
    bins = metrics.calibration.bins
    axes.plot(
        [part.std for part in bins],
        [part.rmse for part in bins],
        color=_CURVE,
        marker="o",
        markersize=4,
        linewidth=1.2,
    )
    # From zero, since the question is how much the error changes.
    axes.set_ylim(0, 1.15 * max(part.rmse for part in bins))
    axes.set_xlim(0, 1.05 * max(part.std for part in bins))
    axes.set_xlabel("standard deviation of an image's answers")
    axes.set_ylabel("RMSE after fit")
    axes.set_title(
        f"does std predict error? rank correlation {number(metrics.calibration.srcc.value)}",
        fontsize=9,
    )


def forest_plot(rows: Sequence[tuple[str, Measured]], label: str, title: str) -> Figure:
    """Metrics with their intervals, one a line, first row on top.

    Args:
        rows: name and figure.
        label: of the horizontal axis.
        title: what is shown.
    """
    figure = Figure(figsize=(6.5, 1.2 + 0.35 * len(rows)), layout="constrained")
    axes = figure.subplots()
    places = range(len(rows), 0, -1)
    for place, (_, measured) in zip(places, rows, strict=True):
        low, high = measured.interval.low, measured.interval.high
        axes.plot([low, high], [place, place], color=_INK, linewidth=1.6)
        axes.plot([measured.value], [place], color=_INK, marker="o", markersize=5)
    axes.set_yticks(list(places), [name for name, _ in rows], fontsize=8)
    axes.set_ylim(0.5, len(rows) + 0.5)
    axes.set_xlabel(label)
    axes.grid(axis="x", color="#e4e4e4")
    axes.set_axisbelow(True)
    axes.set_title(title, fontsize=9)
    return figure


def mean_plot(sets: Sequence[SetMetrics], caption: str) -> Figure:
    """SRCC of every set with its interval."""
    return forest_plot(
        [(metrics.dataset, metrics.srcc) for metrics in sets], headline().label, caption
    )
