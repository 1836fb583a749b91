"""Comparing evaluations of the same images: which model is better, and is the difference real?

What it does: reads finished predictions of two or more runs, matches the images of each data set,
and tests every pair: paired bootstrap of the SRCC difference (over references where images share
them), Steiger's and Meng's tests on the rank correlations, and the win rate over image pairs. The
bootstrap probabilities of all pairs are corrected after Holm, and letters mark runs that do not
differ.

Not here: runs on different images, which are refused, and tables
(`vqr1.evaluation.compare_report`).

Shape legend: n images, m runs, D bootstrap draws.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from vqr1.errors import DataError
from vqr1.evaluation.metric_options import MetricOptions
from vqr1.evaluation.metrics import Measured, headline, measure
from vqr1.evaluation.partial_predictions import finished_file
from vqr1.evaluation.prediction_file import read_predictions
from vqr1.evaluation.predictions import BoolArray, Predictions, bootstrap_clusters
from vqr1.evaluation.summary import set_seed
from vqr1.iqa.bootstrap import Units, bootstrap_draws
from vqr1.iqa.comparison import (
    DependentTest,
    GainTest,
    PairWins,
    difference_letters,
    holm,
    meng_test,
    pair_wins,
    paired_bootstrap_test,
    steiger_test,
)
from vqr1.iqa.correlation import FloatArray, srcc

_SHOWN = 10
_UNNAMED = "one set"
"""Name of the common set of files that call it by different names."""


@dataclass(frozen=True)
class EvaluatedRun:
    """One run to compare.

    Attributes:
        name: short name.
        predictions: its rows.
        caption: model and mode in words; None of predictions without a report.
        trained_on: by set, what its report states of images that the model was trained on.
    """

    name: str
    predictions: Predictions
    caption: str | None = None
    trained_on: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PairComparison:
    """Two runs on one data set; metrics of the first minus those of the second.

    Attributes:
        first, second: names.
        gain: paired bootstrap test of the SRCC difference.
        steiger, meng: tests of the two rank correlations, images taken as independent.
        wins: win counts over image pairs.
        adjusted: the bootstrap probability after Holm's correction over all pairs of runs.
    """

    first: str
    second: str
    gain: GainTest
    steiger: DependentTest
    meng: DependentTest
    wins: PairWins
    adjusted: float


@dataclass(frozen=True)
class SetComparison:
    """All runs on one data set.

    Attributes:
        dataset: its name.
        images: images with a score from every run.
        excluded: images without a score from some run.
        unscored: images without a score from each run, in the order of `names`.
        units: what the bootstrap drew.
        names: runs by falling SRCC.
        metrics: their SRCC on the common images.
        letters: runs that share a letter do not differ.
        pairs: every pair of runs, better one first.
    """

    dataset: str
    images: int
    excluded: int
    unscored: tuple[int, ...]
    units: str
    names: tuple[str, ...]
    metrics: tuple[Measured, ...]
    letters: tuple[str, ...]
    pairs: tuple[PairComparison, ...]


def read_runs(paths: Sequence[str]) -> list[EvaluatedRun]:
    """Predictions of finished evaluations.

    Args:
        paths: run directories, or predictions files.

    Raises:
        DataError: a folder without finished predictions, an unreadable file, or one path twice.
    """
    files = []
    for text in paths:
        path = Path(text).expanduser()
        file = finished_file(path) if path.is_dir() else path if path.is_file() else None
        if file is None:
            raise DataError(
                f"compare: {path} does not exist or holds no finished predictions; give the run "
                "directory of an evaluation that ended, or a predictions file"
            )
        files.append(file.resolve())
    if len(set(files)) < len(files):
        raise DataError(f"compare: a run stands twice in {', '.join(paths)}; name each once")
    names = _short_names(files)
    found = [read_predictions(file) for file in files]
    unnamed = all(set(p.datasets) == {file.stem} for p, file in zip(found, files, strict=True))
    if unnamed and len({file.stem for file in files}) > 1:
        # Without a column dataset a set is named as its file; `compare_runs` checks the images.
        found = [replace(p, datasets=(_UNNAMED,) * len(p)) for p in found]
    return [
        EvaluatedRun(name, predictions, *_reported(file))
        for name, predictions, file in zip(names, found, files, strict=True)
    ]


def _reported(file: Path) -> tuple[str | None, dict[str, str]]:
    """What the report beside a run's predictions states of model, mode and training images."""
    summary = file.parent / "summary.json"
    if file.stem != "predictions" or not summary.is_file():
        return None, {}
    values = json.loads(summary.read_text(encoding="utf-8"))
    seen = {
        name: f"trained on {counts['trained']} of the {counts['images']} images of {name}"
        for name, part in values.get("sets", {}).items()
        if (counts := part.get("trained_on")) and counts["trained"]
    }
    return values.get("caption"), seen


def _short_names(files: Sequence[Path]) -> list[str]:
    """The fewest trailing folders that distinguish the runs."""
    stems = [f.parent if f.stem == "predictions" else f.with_suffix("") for f in files]
    for depth in range(1, max(len(stem.parts) for stem in stems) + 1):
        names = ["/".join(stem.parts[-depth:]) for stem in stems]
        if len(set(names)) == len(names):
            return names
    return [str(file) for file in files]


def compare_runs(runs: Sequence[EvaluatedRun], options: MetricOptions) -> list[SetComparison]:
    """Compare runs on every data set.

    Args:
        runs: at least two.
        options: how metrics are computed.

    Raises:
        DataError: the runs hold different data sets, different images or other MOS.
    """
    if len(runs) < 2:
        raise DataError("compare: name at least two runs, compare=[A,B]")
    parts = sets_of(runs)
    return [_compare_set(name, runs, [part[name] for part in parts], options) for name in parts[0]]


def sets_of(runs: Sequence[EvaluatedRun]) -> list[dict[str, Predictions]]:
    """The predictions of each run by data set.

    Raises:
        DataError: the runs hold different data sets.
    """
    parts = [run.predictions.by_dataset() for run in runs]
    for run, found in zip(runs[1:], parts[1:], strict=True):
        if found.keys() != parts[0].keys():
            raise DataError(
                f"compare: {runs[0].name} holds {', '.join(parts[0])} and {run.name} holds "
                f"{', '.join(found)}; compare runs on the same sets"
            )
    return parts


def _compare_set(
    dataset: str, runs: Sequence[EvaluatedRun], parts: Sequence[Predictions], options: MetricOptions
) -> SetComparison:
    aligned = aligned_parts(dataset, runs, parts)
    scores = np.stack([part.image_scores(options.rule) for part in aligned])
    unscored = (~np.isfinite(scores)).sum(axis=1)
    common: BoolArray = np.all(np.isfinite(scores), axis=0)
    base = aligned[0].rows(common)
    scores = scores[:, common]
    clusters, _ = bootstrap_clusters(base, options.resample)
    units = Units.of(len(base), clusters)
    seed = set_seed(options.seed, dataset)
    metric = headline(options.metrics)
    metrics = [
        measure(
            metric.compute(row, base.mos),
            bootstrap_draws(
                metric.statistic,
                row,
                base.mos,
                clusters=clusters,
                draws=options.draws,
                seed=seed,
            ),
            units.count,
            options.level,
        )
        for row in scores
    ]
    order = sorted(range(len(runs)), key=lambda i: _falling(metrics[i].value))
    pairs = [
        _compare_pair(runs, scores, base.mos, clusters, (i, j), seed, options)
        for i, j in itertools.combinations(order, 2)
    ]
    adjusted = holm([pair.gain.p for pair in pairs])
    different = np.zeros((len(runs), len(runs)), dtype=bool)
    for (a, b), p in zip(itertools.combinations(range(len(runs)), 2), adjusted, strict=True):
        different[a, b] = different[b, a] = p < 1 - options.level
    # Of runs that could not be tested nothing is stated, not that they do not differ.
    tested = np.isfinite(adjusted).all()
    return SetComparison(
        dataset,
        len(base),
        int((~common).sum()),
        tuple(int(unscored[i]) for i in order),
        units.name,
        tuple(runs[i].name for i in order),
        tuple(metrics[i] for i in order),
        tuple(difference_letters(different)) if tested else ("",) * len(runs),
        tuple(
            PairComparison(p.first, p.second, p.gain, p.steiger, p.meng, p.wins, value)
            for p, value in zip(pairs, adjusted, strict=True)
        ),
    )


def _falling(value: float) -> float:
    return math.inf if math.isnan(value) else -value


def aligned_parts(
    dataset: str, runs: Sequence[EvaluatedRun], parts: Sequence[Predictions]
) -> list[Predictions]:
    """Rows of every run on one data set in the order of the first run.

    Raises:
        DataError: a run holds other images than the first, or another MOS for one.
    """
    return [parts[0], *(_aligned(dataset, runs, parts, i) for i in range(1, len(runs)))]


def _aligned(
    dataset: str, runs: Sequence[EvaluatedRun], parts: Sequence[Predictions], i: int
) -> Predictions:
    """Rows of run i in the order of the first run."""
    first, other = parts[0], parts[i]
    row = {image: number_ for number_, image in enumerate(other.images)}
    missing = [image for image in first.images if image not in row]
    extra = sorted(set(other.images) - set(first.images))
    if missing or extra:
        raise DataError(
            f"compare: {runs[0].name} and {runs[i].name} evaluated different images of {dataset}: "
            f"{len(missing)} only in the first ({', '.join(missing[:_SHOWN])}), {len(extra)} only "
            f"in the second ({', '.join(extra[:_SHOWN])})"
        )
    aligned = other.rows(np.array([row[image] for image in first.images], dtype=np.int64))
    differs = ~np.isclose(aligned.mos, first.mos, rtol=1e-5, atol=1e-8)
    if differs.any():
        image = first.images[int(np.flatnonzero(differs)[0])]
        raise DataError(
            f"compare: {runs[0].name} and {runs[i].name} have different MOS for "
            f"{int(differs.sum())} images of {dataset}, the first is {image}"
        )
    return aligned


def _compare_pair(
    runs: Sequence[EvaluatedRun],
    scores: FloatArray,
    mos: FloatArray,
    clusters: Sequence[object] | None,
    pair: tuple[int, int],
    seed: int,
    options: MetricOptions,
) -> PairComparison:
    x, y = scores[pair[0]], scores[pair[1]]
    correlations = srcc(x, mos), srcc(y, mos), srcc(x, y)
    gain = paired_bootstrap_test(
        headline(options.metrics).statistic,
        x,
        y,
        mos,
        clusters=clusters,
        draws=options.draws,
        seed=seed,
        level=options.level,
    )
    return PairComparison(
        runs[pair[0]].name,
        runs[pair[1]].name,
        gain,
        steiger_test(*correlations, len(mos)),
        meng_test(*correlations, len(mos)),
        pair_wins(x, y, mos),
        math.nan,
    )
