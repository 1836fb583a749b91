"""How a model's scores move where the quality of an image does not, or the question stays.

The images are scored again under each perturbation (`perturbations.py`), with another wording of
the prompt, and, where answers are sampled, with another seed. Of n images that both scored, with
scores x before and y after:

    mean |y - x|     in units of the asked scale
    SRCC             of x and y
    flipped pairs    pairs with (x_i - x_j)(y_i - y_j) < 0 / pairs that neither ties

Each pass is an evaluation of its own below `consistency/` in the run's folder, so that a stopped
one continues as the evaluation does.

Not here: correlations with MOS (`summary.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vqr1.config import EvalConfig
from vqr1.evaluation.perturbations import CHANGES
from vqr1.evaluation.predictions import Predictions, ScoreRule
from vqr1.evaluation.report import number
from vqr1.evaluation.report_values import finite
from vqr1.evaluation.tables import Table
from vqr1.iqa.correlation import FloatArray, srcc

QUESTION = "What is your overall rating on the quality of this picture?"
REWORDED = "How do you rate the overall quality of this image?"
"""The published question in other words."""

LEAD = "Look at the image carefully. "
"""In front of prompts that do not hold the published question."""

WORDS = {
    "flip": "mirrored left to right",
    "crop": "2 % cut off",
    "resize": "resized to 95 %",
    "jpeg": "JPEG of quality 95",
    "wording": "another wording of the prompt",
    "seed": "another seed",
}
"""What the passes change, in words."""


@dataclass(frozen=True)
class Stability:
    """How scores moved on one set.

    Attributes:
        images: images with a score before and after.
        lost: images with a score before and none after.
        difference: mean |y - x|; NaN without images.
        srcc: of both scores; NaN where it does not exist.
        flipped: share of pairs whose order flips, in [0, 1]; NaN without untied pairs.
    """

    images: int
    lost: int
    difference: float
    srcc: float
    flipped: float


def passes(config: EvalConfig) -> dict[str, EvalConfig]:
    """The further evaluations, by name.

    Args:
        config: the evaluation, as it was resolved.
    """
    folder = Path(config.run_dir) / "consistency"
    plain = replace(
        config, consistency=False, loader=replace(config.loader, cache_dir=None), output="csv"
    )
    found: dict[str, EvalConfig] = {n: replace(plain, perturbation=n) for n in CHANGES}
    found["wording"] = replace(plain, prompt=replace(config.prompt, text=reworded(config)))
    if config.mode.name == "sampled":
        found["seed"] = replace(plain, seed=config.seed + 1)
    return {name: replace(one, run_dir=str(folder / name)) for name, one in found.items()}


def reworded(config: EvalConfig) -> str:
    """The prompt's text in other words."""
    text = config.prompt.text
    return text.replace(QUESTION, REWORDED) if QUESTION in text else LEAD + text


def stability(before: FloatArray, after: FloatArray) -> Stability:
    """How n scores moved; see the module's header.

    Args:
        before: [n] scores, NaN where there is none.
        after: [n] scores of the same images.
    """
    both = np.isfinite(before) & np.isfinite(after)
    x, y = before[both], after[both]
    lost = int((np.isfinite(before) & ~np.isfinite(after)).sum())
    if not len(x):
        return Stability(0, lost, math.nan, math.nan, math.nan)
    flipped = untied = 0
    for place in range(len(x) - 1):
        signs = np.sign(x[place + 1 :] - x[place]) * np.sign(y[place + 1 :] - y[place])
        flipped += int((signs < 0).sum())
        untied += int((signs != 0).sum())
    share = flipped / untied if untied else math.nan
    return Stability(len(x), lost, float(np.abs(y - x).mean()), srcc(x, y), share)


def compare_passes(
    base: Predictions, again: Mapping[str, Predictions], rule: ScoreRule
) -> dict[str, dict[str, Stability]]:
    """By set and pass, how scores moved.

    Args:
        base: predictions of the images as they are.
        again: those of the passes; images that a pass skipped count as lost.
        rule: which images have a score.
    """
    found: dict[str, dict[str, Stability]] = {}
    for name, part in base.by_dataset().items():
        before = part.image_scores(rule)
        found[name] = {}
        for change, predictions in again.items():
            other = predictions.by_dataset().get(name)
            scores = (
                {}
                if other is None
                else dict(zip(other.images, other.image_scores(rule), strict=True))
            )
            after = np.array([scores.get(image, math.nan) for image in part.images])
            found[name][change] = stability(before, after)
    return found


def consistency_tables(found: Mapping[str, Mapping[str, Stability]]) -> list[Table]:
    """A table of each set."""
    return [
        Table(
            f"Consistency on {name}: the same images scored again",
            ("change", "images", "lost", "mean |difference|", "SRCC", "pairs flipped"),
            tuple(
                (
                    WORDS[change],
                    str(row.images),
                    str(row.lost),
                    number(row.difference),
                    number(row.srcc),
                    "nan" if math.isnan(row.flipped) else f"{row.flipped:.1%}",
                )
                for change, row in rows.items()
            ),
            f"consistency_{name}",
            (
                "Differences in units of the asked scale; SRCC between both scores; pairs that "
                "either ties are not counted. Lost: images that have no score any more.",
            ),
        )
        for name, rows in found.items()
    ]


def consistency_values(
    found: Mapping[str, Mapping[str, Stability]],
) -> dict[str, dict[str, dict[str, Any]]]:
    """Contents of `metrics.json`."""
    return {
        name: {
            change: {
                "images": row.images,
                "lost": row.lost,
                "mean_abs_difference": finite(row.difference),
                "srcc": finite(row.srcc),
                "pairs_flipped": finite(row.flipped),
            }
            for change, row in rows.items()
        }
        for name, rows in found.items()
    }


def consistency_metrics(found: Mapping[str, Mapping[str, Stability]]) -> dict[str, float]:
    """Metrics for the log, where they exist."""
    values = {
        f"consistency/{name}/{change}/{key}": value
        for name, rows in consistency_values(found).items()
        for change, row in rows.items()
        for key, value in row.items()
    }
    return {name: float(value) for name, value in values.items() if value is not None}
