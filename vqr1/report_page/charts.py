"""Charts as Vega-Lite specifications: curves over steps, scores against MOS, values with intervals.

Pure functions. Colours are mid-tones that are legible on white and on black, text has the page's
colour (`currentColor`), and series differ by dashes too. A specification names fixed fields and
holds its data; no text of a user ends up in an expression.

Not here: where the values come from (`files.py`), drawing (`library.py`).
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vqr1.report_page.files import ScoredImage, Series

Spec = dict[str, Any]

MOST_POINTS = 3000
"""Images that a scatter draws; of more, a subset drawn by hash."""
CURVE_POINTS = 250
"""Points of a curve; of more steps, means of blocks of steps."""
TEXT = 320
"""Characters of an answer that a tooltip shows."""

COLOURS = ("#2f7fd6", "#d9731a", "#1f9a72", "#b557a6", "#8a7a1f", "#c24a4a", "#6a6fd0", "#5f8a99")
_FAINT = "#8886"
_DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4], [1, 3], [10, 4], [3, 1])
_TEXT = {"labelColor": "currentColor", "titleColor": "currentColor"}

CONFIG: Spec = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        **_TEXT, "gridColor": _FAINT, "gridOpacity": 0.5, "domainColor": _FAINT,
        "tickColor": _FAINT, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal",
        "aria": False,
    },
    "legend": {
        **_TEXT, "orient": "top", "labelFontSize": 12, "title": None, "labelLimit": 240,
        "columns": 2, "aria": False, "symbolType": "stroke", "symbolSize": 240,
        "symbolStrokeWidth": 2,
    },
    "title": {"color": "currentColor"},
    "range": {"category": list(COLOURS)},
    # Screen readers get the chart's description and the tables, not thousands of points.
    "mark": {"aria": False},
}  # fmt: skip


@dataclass(frozen=True)
class IntervalRow:
    """A value with its interval.

    Attributes:
        name: what it is of.
        value: NaN is not drawn.
        low, high: ends of the interval; NaN where there is none.
        group: series, distinguished by colour; empty for one series.
    """

    name: str
    value: float
    low: float = math.nan
    high: float = math.nan
    group: str = ""


def curve_chart(series: Mapping[str, Series], label: str, description: str) -> Spec:
    """Metrics over optimiser steps.

    Args:
        series: by name in the legend.
        label: of the vertical axis.
        description: for screen readers.
    """
    rows = [
        {"step": step, "value": value, "series": name}
        for name, points in series.items()
        for step, value in thinned(points)
    ]
    single = max(len(points) for points in series.values()) == 1
    names = list(series)
    # Both channels have one legend, or none.
    channel: Spec = {"field": "series", "type": "nominal", "sort": names}
    if len(names) == 1:
        channel["legend"] = None
    dashes = [_DASHES[i % len(_DASHES)] for i in range(len(names))]
    return {
        **_base(description, 190),
        "data": {"values": rows},
        # A single validation, for example, has no line.
        "mark": {
            "type": "line", "strokeWidth": 2, "point": {"size": 30} if single or len(rows) < 40
            else {"size": 40, "opacity": 0}, "aria": False,
        },
        "encoding": {
            "x": {"field": "step", "type": "quantitative", "title": "step",
                  "axis": {"format": "~d", "tickMinStep": 1}},
            "y": {"field": "value", "type": "quantitative", "title": label,
                  "scale": {"zero": False}},
            "color": {**channel, "scale": {"domain": names}},
            "strokeDash": {**channel, "scale": {"domain": names, "range": dashes}},
            "tooltip": [
                {"field": "series", "title": "metric"},
                {"field": "step", "title": "step"},
                {"field": "value", "title": "value", "format": ".4g"},
            ],
        },
    }  # fmt: skip


def thinned(points: Series) -> Series:
    """At most `CURVE_POINTS` points: means of as many blocks of steps, each at its last step.

    The first and the last step are kept as they are.
    """
    if len(points) <= CURVE_POINTS:
        return points
    inner, blocks = points[1:-1], CURVE_POINTS - 2
    cuts = [round(i * len(inner) / blocks) for i in range(blocks + 1)]
    means = [
        (inner[end - 1][0], math.fsum(v for _, v in inner[start:end]) / (end - start))
        for start, end in itertools.pairwise(cuts)
    ]
    return [points[0], *means, points[-1]]


def drawn(images: Sequence[ScoredImage]) -> list[ScoredImage]:
    """The images that a scatter shows: those with score and MOS, a random subset of very many."""
    scored = [one for one in images if math.isfinite(one.score) and math.isfinite(one.mos)]
    if len(scored) <= MOST_POINTS:
        return scored
    by_hash = sorted(scored, key=lambda one: hashlib.sha256(one.image.encode()).digest())
    return by_hash[:MOST_POINTS]


def scatter_chart(
    images: Sequence[ScoredImage], description: str, curve: Sequence[tuple[float, float]] = ()
) -> Spec:
    """MOS against predicted score, each point with its image's name and answer.

    Args:
        images: of one data set, as `drawn` gives them.
        description: for screen readers.
        curve: points (score, MOS) of a fitted curve; empty for none.
    """
    rows = [
        {
            "image": one.image, "mos": round(one.mos, 3), "score": round(one.score, 3),
            "answer": shortened(one.text, TEXT),
        }
        for one in images
    ]  # fmt: skip
    x: Spec = {"field": "score", "type": "quantitative", "title": "predicted score",
               "scale": {"zero": False, "nice": True}}  # fmt: skip
    y: Spec = {"field": "mos", "type": "quantitative", "title": "MOS",
               "scale": {"zero": False, "nice": True}}  # fmt: skip
    points: Spec = {
        "data": {"values": rows},
        "mark": {
            "type": "point", "filled": True, "aria": False, "color": COLOURS[0],
            "size": 46 if len(rows) < 300 else 26, "opacity": 0.7 if len(rows) < 300 else 0.4,
        },
        "encoding": {
            "x": x,
            "y": y,
            # Keys `title` and `image` are special in a tooltip: the second one loads its value.
            "tooltip": [
                {"field": name, "title": title}
                for name, title in (
                    ("image", "file"), ("mos", "MOS"), ("score", "score"), ("answer", "answer")
                )
            ],
        },
    }  # fmt: skip
    if not curve:
        return {**_base(description, 300), **points}
    line: Spec = {
        "data": {"values": [{"score": a, "mos": b} for a, b in curve]},
        "mark": {"type": "line", "color": COLOURS[1], "strokeWidth": 2, "aria": False},
        "encoding": {"x": x, "y": y},
    }
    return {**_base(description, 300), "layer": [points, line]}


def interval_chart(rows: Sequence[IntervalRow], label: str, description: str) -> Spec:
    """Values with their intervals, one a line, the first on top.

    Args:
        rows: NaN values are not drawn.
        label: of the horizontal axis.
        description: for screen readers.
    """
    values = [
        {
            "name": row.name, "value": row.value, "group": row.group,
            "low": row.low if math.isfinite(row.low) else None,
            "high": row.high if math.isfinite(row.high) else None,
        }
        for row in rows
        if math.isfinite(row.value)
    ]  # fmt: skip
    names = list(dict.fromkeys(row["name"] for row in values))
    groups = list(dict.fromkeys(row["group"] for row in values))
    y: Spec = {"field": "name", "type": "nominal", "sort": names, "title": None,
               "axis": {"labelLimit": 190}}  # fmt: skip
    common: Spec = {"y": y}
    if len(groups) > 1:
        common["color"] = {"field": "group", "type": "nominal", "sort": groups}
        common["yOffset"] = {"field": "group", "type": "nominal", "sort": groups}
    tooltip = [
        {"field": "name", "title": "name"},
        *([{"field": "group", "title": "group"}] if len(groups) > 1 else []),
        *({"field": key, "title": key, "format": ".3f"} for key in ("value", "low", "high")),
    ]
    axis: Spec = {"type": "quantitative", "title": label, "scale": {"zero": False, "nice": True},
                  "axis": {"tickCount": 8}}  # fmt: skip
    paint = {} if len(groups) > 1 else {"color": COLOURS[0]}
    # Below the rows the axis with its title.
    height = 28 * len(names) * max(1, len(groups) * 0.7) + 60
    bars: Spec = {
        "mark": {"type": "rule", "strokeWidth": 2, "aria": False, **paint},
        "encoding": {**common, "x": {"field": "low", **axis}, "x2": {"field": "high"}},
    }
    points: Spec = {
        "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1, "aria": False, **paint},
        "encoding": {**common, "x": {"field": "value", **axis}, "tooltip": tooltip},
    }
    bounded = any(row["low"] is not None for row in values)
    return {
        **_base(description, round(height)),
        "data": {"values": values},
        "layer": [bars, points] if bounded else [points],
    }


def shortened(text: str, most: int) -> str:
    """A text on one line, cut with an ellipsis."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _base(description: str, height: int) -> Spec:
    return {
        "width": "container",
        "height": height,
        "autosize": {"type": "fit", "contains": "padding"},
        "description": description,
        "config": CONFIG,
    }
