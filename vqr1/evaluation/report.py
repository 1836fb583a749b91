"""The report of an evaluation as tables.

What it does: turns metrics into tables: main metrics, per-distortion rows, calibration. The mode of
the evaluation stands in every caption. Whatever a number is not over (images, references, draws)
and why stands in the notes, and in the column `remarks` of the files, since CSV has no notes.

Not here: published metrics beside ours (`vqr1.evaluation.published_report`), plain values
(`vqr1.evaluation.report_values`), images (`vqr1.evaluation.plots`) and writing files
(`vqr1.evaluation.report_writer`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vqr1.evaluation.dataset_averages import SetMeans, all_metrics, set_means
from vqr1.evaluation.group_metrics import ReferenceMeans
from vqr1.evaluation.metric_options import MetricOptions
from vqr1.evaluation.metrics import FITTED, HEADLINE, Measured, labels
from vqr1.evaluation.set_metrics import SetMetrics
from vqr1.evaluation.tables import Table

TRAINED = " †"
"""After the name or the numbers of a set whose images the model was trained on."""


@dataclass(frozen=True)
class Evaluation:
    """Everything a report is made of.

    Attributes:
        caption: model, prompt, mode and sets in words.
        sets: metrics of each set, in order.
        options: how they were computed.
    """

    caption: str
    sets: tuple[SetMetrics, ...]
    options: MetricOptions

    @property
    def means(self) -> SetMeans | None:
        """Means over sets; None with one set."""
        return set_means(self.sets, self.options) if len(self.sets) > 1 else None

    @property
    def labels(self) -> dict[str, str]:
        """What tables call each metric, by name."""
        return labels(self.options.metrics)

    def all_metrics(self, metrics: SetMetrics) -> dict[str, Measured]:
        """Every metric of a set by name, those that cannot be averaged over sets last."""
        return all_metrics(metrics, self.options)


def number(value: float) -> str:
    """A metric for a table: three decimals, `nan` where it does not exist."""
    return "nan" if math.isnan(value) else f"{value:.3f}"


def with_interval(measured: Measured) -> str:
    """A metric with its interval, where there is one."""
    interval = measured.interval
    if math.isnan(interval.low):
        return number(measured.value)
    return f"{number(measured.value)} [{number(interval.low)}, {number(interval.high)}]"


def main_table(evaluation: Evaluation, detailed: bool) -> Table:
    """One row a set, and the means.

    Args:
        evaluation: what to show.
        detailed: intervals of every metric; otherwise of the SRCC only, so that the table fits a
            terminal.
    """
    names = list(evaluation.all_metrics(evaluation.sets[0]))
    if not detailed:
        # The second fit and its error are in the files.
        curves = evaluation.options.curves
        others = {metric.name for metric in FITTED if metric.curve in curves[1:]}
        names = [name for name in names if name not in others]

    def cells(values: Mapping[str, Measured]) -> list[str]:
        return [
            ""
            if name not in values
            else with_interval(values[name])
            if detailed or name == HEADLINE
            else number(values[name].value)
            for name in names
        ]

    def row(*cells: str, remarks: Sequence[str] = ()) -> tuple[str, ...]:
        return (*cells, "; ".join(remarks)) if detailed else cells

    rows = [
        row(
            marked(metrics),
            f"{metrics.scored}/{metrics.images}",
            f"{metrics.invalid_rate:.1%}",
            *cells(evaluation.all_metrics(metrics)),
            remarks=set_remarks(evaluation, metrics),
        )
        for metrics in evaluation.sets
    ]
    rules = []
    means = evaluation.means
    if means is not None:
        rules.append(len(rows))
        name = f"mean of {len(means.sets)} sets"
        remarks = mean_remarks(evaluation)
        rows.append(row(name, "", "", *cells(means.plain), remarks=remarks))
        rows.append(row(f"{name}, size-weighted", "", "", *cells(means.weighted), remarks=remarks))
    for metrics in evaluation.sets:
        found = metrics.per_reference
        if found is not None:
            rules += [len(rows)] if len(rows) not in rules else []
            rows.append(
                row(
                    f"{marked(metrics)}, mean per reference",
                    f"{found.references}/{found.total} ref.",
                    "",
                    *cells(found.metrics),
                    remarks=reference_remarks(evaluation, found),
                )
            )
    heads = ("set", "scored", "invalid", *(evaluation.labels[name] for name in names))
    return Table(
        evaluation.caption,
        (*heads, "remarks") if detailed else heads,
        tuple(rows),
        "metrics",
        _notes(evaluation),
        tuple(dict.fromkeys(rules[:2])),
    )


def marked(metrics: SetMetrics) -> str:
    """A set's name, marked where the model was trained on its images."""
    trained = metrics.trained_on is not None and metrics.trained_on.trained
    return f"{metrics.dataset}{TRAINED if trained else ''}"


def set_remarks(evaluation: Evaluation, metrics: SetMetrics) -> list[str]:
    """What the metrics of a set are not over, and other things to know before using them."""
    trained = [] if metrics.trained_on is None else metrics.trained_on.sentences()
    return [*trained, *metrics.warnings, *_lost_draws(evaluation, evaluation.all_metrics(metrics))]


def reference_remarks(evaluation: Evaluation, means: ReferenceMeans) -> list[str]:
    """References that a mean per reference is not over, and why."""
    found = []
    if means.excluded:
        why = ", ".join(f"{count}: {reason}" for reason, count in means.reasons.items())
        found.append(
            f"over {means.references} of {means.total} references; {means.excluded} have no "
            f"correlation and are excluded ({why})"
        )
    return [*found, *_lost_draws(evaluation, means.metrics)]


def mean_remarks(evaluation: Evaluation) -> list[str]:
    """Why a mean over sets does not exist, and what it holds that was trained on."""
    means = evaluation.means
    if means is None:
        return []
    found = []
    if means.plain[HEADLINE].reason:
        found.append(f"no mean: {means.plain['srcc'].reason}")
    trained = [f.dataset for f in evaluation.sets if f.trained_on and f.trained_on.trained]
    if trained:
        found.append(
            f"the model was trained on images of {len(trained)} of these {len(means.sets)} sets "
            f"({', '.join(trained)})"
        )
    return [*found, *_lost_draws(evaluation, means.plain)]


def _lost_draws(evaluation: Evaluation, values: Mapping[str, Measured]) -> list[str]:
    """Bootstrap draws that intervals are not over, metrics with one number together."""
    lost: dict[tuple[int, int], list[str]] = {}
    for name, measured in values.items():
        if measured.interval.lost:
            key = (measured.interval.lost, measured.interval.draws)
            lost.setdefault(key, []).append(evaluation.labels[name])
    return [
        f"{count} of {draws} bootstrap draws have no {', '.join(names)} and are excluded from the "
        f"interval{'s' if names[1:] else ''}"
        for (count, draws), names in lost.items()
    ]


def _notes(evaluation: Evaluation) -> tuple[str, ...]:
    options = evaluation.options
    notes = [
        f"{marked(metrics)}: {text}"
        for metrics in evaluation.sets
        for text in set_remarks(evaluation, metrics)
    ]
    notes += [f"mean of sets: {text}" for text in mean_remarks(evaluation)]
    notes += [
        f"{metrics.dataset}, mean per reference: {text}"
        for metrics in evaluation.sets
        if metrics.per_reference is not None
        for text in reference_remarks(evaluation, metrics.per_reference)
    ]
    notes += [
        f"{metrics.dataset}, {evaluation.labels[f'plcc_{curve}']}: {fit.fit.reason}"
        for metrics in evaluation.sets
        for curve, fit in metrics.fits.items()
        if fit.fit.reason and fit.fit.reason != metrics.srcc.reason
    ]
    notes += _missing_intervals(evaluation)
    if options.draws:
        units = ", ".join(
            f"{metrics.dataset}: {metrics.unit_count} {metrics.units}"
            for metrics in evaluation.sets
        )
        notes.append(
            f"{options.level:.0%} intervals: bootstrap, {options.draws} draws over {units}"
        )
    rule = {
        "valid_mean": "an image's score is the mean of its valid answers; an image without a valid "
        "answer has no score and is excluded",
        "all_valid": "an image has a score only if all its answers are valid; other images are "
        "excluded",
    }[options.rule]
    notes.append(f"invalid: answers without a readable score; {rule}")
    notes += [
        f"{metrics.dataset}: expected scores exclude {metrics.lost.mean:.2%} of the probability "
        f"on average (answers that are no number of at most two decimals in the accepted range; "
        f"with mode=levels, no word of a level), "
        f"{metrics.lost.highest:.1%} at most, over {metrics.lost.images} of {metrics.images} images"
        for metrics in evaluation.sets
        if metrics.lost is not None
    ]
    if options.curves:
        notes.append("RMSE is in the units of each set's MOS")
    return tuple(notes)


def _missing_intervals(evaluation: Evaluation) -> list[str]:
    """Why metrics that exist have no interval, metrics with one reason together."""
    if not evaluation.options.draws:
        return []
    notes = []
    for metrics in evaluation.sets:
        missing: dict[str, list[str]] = {}
        for name, measured in evaluation.all_metrics(metrics).items():
            if measured.interval.reason and not measured.reason:
                missing.setdefault(measured.interval.reason, []).append(evaluation.labels[name])
        notes += [
            f"{metrics.dataset}, no interval of {', '.join(names)}: {reason}"
            for reason, names in missing.items()
        ]
        means = metrics.per_reference
        if means is not None and means.srcc.interval.reason and not means.srcc.reason:
            notes.append(
                f"{metrics.dataset}, mean per reference, no interval: {means.srcc.interval.reason}"
            )
    return notes


def distortion_tables(evaluation: Evaluation) -> list[Table]:
    """Correlations among the images of each distortion, worst first."""
    return [
        Table(
            f"{marked(metrics)} by distortion. {evaluation.caption}",
            ("distortion", "scored", *_group_labels(evaluation)),
            tuple(
                (
                    row.name,
                    f"{row.images}/{row.total}",
                    *(number(metric.value) for metric in row.metrics.values()),
                )
                for row in metrics.distortions
            ),
            f"distortions_{metrics.dataset}",
            _distortion_notes(metrics),
        )
        for metrics in evaluation.sets
        if metrics.distortions
    ]


def _group_labels(evaluation: Evaluation) -> list[str]:
    return [metric.label for metric in evaluation.options.metrics if metric.by_group]


def _distortion_notes(metrics: SetMetrics) -> tuple[str, ...]:
    notes = [f"{row.name}: {row.srcc.reason}" for row in metrics.distortions if row.srcc.reason]
    unnamed = metrics.images - sum(row.total for row in metrics.distortions)
    if unnamed:
        notes.append(f"{unnamed} of {metrics.images} images have no distortion and are excluded")
    return tuple(notes)


def calibration_tables(evaluation: Evaluation) -> list[Table]:
    """Error by rising standard deviation of the answers."""
    return [
        Table(
            f"{marked(metrics)}: does the standard deviation of the answers predict the error? "
            f"Rank correlation {number(metrics.calibration.srcc.value)} over "
            f"{metrics.calibration.images} of {metrics.images} images. {evaluation.caption}",
            ("standard deviation of answers", "images", "RMSE after fit"),
            tuple(
                (number(part.std), str(part.images), number(part.rmse))
                for part in metrics.calibration.bins
            ),
            f"calibration_{metrics.dataset}",
            _calibration_notes(metrics),
        )
        for metrics in evaluation.sets
        if metrics.calibration.bins
    ]


def _calibration_notes(metrics: SetMetrics) -> tuple[str, ...]:
    missing = metrics.images - metrics.calibration.images
    if not missing:
        return ()
    return (f"{missing} images are excluded: fewer than two valid answers, or no score",)
