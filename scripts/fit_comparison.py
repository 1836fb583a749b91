"""Is P(A better than B) what it states? Reliability on test images, and a fit on validation.

For each mode, the images of the validation and the test split are scored, and all pairs of
different MOS within a set are compared (`vqr1.iqa.pairs`). The scale of the standard deviations
and the gamma that make the validation pairs most likely are fitted; the reliability of the test
pairs is printed and drawn with the published form and with the fitted one, whose two numbers
continue the command line as `comparison.std_scale=... comparison.gamma=...`.

    python scripts/fit_comparison.py model.path=FOLDER --plot curve.png --json curve.json
    python scripts/fit_comparison.py dataset=koniq dataset.root=DIR --modes expected

Keys are those of `python eval.py`. Not here: correlations, which `python eval.py` gives.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from PIL import Image

from vqr1.cli.compose import compose_config, plain_values
from vqr1.config import EvalConfig, LocalBackendConfig, validate
from vqr1.data.images import load_image
from vqr1.data.labelled_set import LabelledSet
from vqr1.data.opened_sets import open_sets
from vqr1.inference.backends import build_backend
from vqr1.inference.compare import is_comparable
from vqr1.inference.scorer import Scorer
from vqr1.iqa.pairs import (
    PairOutcomes,
    ReliabilityBin,
    calibration_error,
    fit_comparison,
    pair_outcomes,
    reliability,
)
from vqr1.iqa.thurstone import GAMMA
from vqr1.outputs import own_json, own_png, png_metadata, target, write_json

matplotlib.use("Agg")
import matplotlib.pyplot as plt

NATS_OF_A_COIN = math.log(2)


@dataclass(frozen=True)
class Calibrated:
    """What one mode gives.

    Attributes:
        std_scale: fitted on the validation pairs.
        gamma: likewise.
        pairs: number of test pairs.
        images: test images with score and standard deviation.
        accuracy: share of the test pairs whose likelier order is the true one.
        log_loss: of the test pairs by form (published, fitted), in nats.
        error: expected calibration error of the test pairs by form.
        curves: reliability of the test pairs by form.
    """

    std_scale: float
    gamma: float
    pairs: int
    images: int
    accuracy: float
    log_loss: dict[str, float]
    error: dict[str, float]
    curves: dict[str, tuple[ReliabilityBin, ...]]


def pairs_of(
    sets: dict[str, LabelledSet], part: Literal["val", "test"], scorer: Scorer
) -> tuple[PairOutcomes, int]:
    """All pairs within each set, joined, and the number of images in them."""
    found, images = [], 0
    for labelled in sets.values():
        rows = labelled.rows(part)
        results = scorer.score(_images(labelled, list(rows.index)))
        kept = [
            (result.score, result.std, mos)
            for result, mos in zip(results, rows["mos"], strict=True)
            if is_comparable(result)
        ]
        images += len(kept)
        mean, std, mos = (np.array(column, dtype=np.float64) for column in zip(*kept, strict=True))
        found.append(pair_outcomes(mean, std, mos))
    return PairOutcomes(
        np.concatenate([pairs.difference for pairs in found]),
        np.concatenate([pairs.variance for pairs in found]),
        np.concatenate([pairs.won for pairs in found]),
    ), images


def _images(labelled: LabelledSet, rows: Sequence[int]) -> Iterator[Image.Image]:
    for row in rows:
        yield load_image(labelled.image_path(row), labelled.config.short_edge)


def calibrate(val: PairOutcomes, test: PairOutcomes, images: int) -> Calibrated:
    """Fit on the validation pairs, look at the test pairs."""
    scale, gamma = fit_comparison(val)
    forms = {"published": (1.0, GAMMA), "fitted": (scale, gamma)}
    curves = {
        name: reliability(test.probabilities(*form), test.won) for name, form in forms.items()
    }
    right = np.where(test.won > 0.5, test.difference, -test.difference)
    return Calibrated(
        std_scale=scale,
        gamma=gamma,
        pairs=len(test.won),
        images=images,
        accuracy=float(np.mean((right > 0) + 0.5 * (right == 0))),
        log_loss={name: test.log_loss(*form) for name, form in forms.items()},
        error={name: calibration_error(curve) for name, curve in curves.items()},
        curves=curves,
    )


def draw(results: dict[str, Calibrated], path: Path) -> None:
    """Reliability curves, one panel a mode."""
    figure, panels = plt.subplots(
        1, len(results), figsize=(4.2 * len(results), 4), squeeze=False, layout="constrained"
    )
    for axes, (mode, found) in zip(panels[0], results.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for name, marker in (("published", "o"), ("fitted", "s")):
            axes.plot(
                [bin_.predicted for bin_ in found.curves[name]],
                [bin_.observed for bin_ in found.curves[name]],
                marker=marker, markersize=4,
                label=f"{name}: calibration error {found.error[name]:.3f}",
            )  # fmt: skip
        axes.set(title=f"mode={mode}", xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.set(xlabel="predicted P(A better than B)", ylabel="A is better, share of pairs")
        axes.legend(loc="upper left", fontsize=8, frameon=False)
    figure.savefig(path, dpi=110, metadata=png_metadata("fit_comparison"))
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Score, fit, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="keys of eval.py")
    parser.add_argument("--modes", nargs="+", default=["expected", "sampled"])
    parser.add_argument(
        "--plot", type=target(own_png("fit_comparison")), help="PNG file for the curves"
    )
    parser.add_argument(
        "--json", type=target(own_json("fit_comparison")), help="file for every metric"
    )
    options = parser.parse_intermixed_args(argv)
    results: dict[str, Calibrated] = {}
    for mode in options.modes:
        composed = compose_config("eval", [f"mode={mode}", "run_dir=none", *options.overrides])
        config = validate(EvalConfig, plain_values(composed))
        backend = build_backend(LocalBackendConfig(name="local"), config.model, config.hardware)
        scorer = Scorer(
            backend,
            config.prompt,
            config.answer.form,
            config.mode,
            seed=config.seed,
            batch_size=32,
        )
        sets = open_sets(config.dataset)
        (val, _), (test, images) = (pairs_of(sets, part, scorer) for part in ("val", "test"))
        found = results[mode] = calibrate(val, test, images)
        print(
            f"mode={mode}: {found.pairs} pairs of {found.images} test images, order right in "
            f"{found.accuracy:.1%}; comparison.std_scale={found.std_scale:.3f} "
            f"comparison.gamma={found.gamma:.4g}"
        )
        for name in found.curves:
            print(
                f"  {name:<10} log loss {found.log_loss[name]:7.3f} nats (a coin: "
                f"{NATS_OF_A_COIN:.3f})   calibration error {found.error[name]:.3f}",
                flush=True,
            )
    if options.json is not None:
        content: dict[str, Any] = {mode: asdict(found) for mode, found in results.items()}
        write_json(options.json, content, "fit_comparison")
    if options.plot is not None:
        draw(results, options.plot)


if __name__ == "__main__":
    main()
