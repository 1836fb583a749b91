"""The report of an evaluation as tables.

What it does: turns figures into tables: main figures, published figures beside ours, per-distortion
rows, calibration. The mode of the evaluation stands in every caption.

What it leaves out: plain values (`vqr1.evaluation.report_values`), pictures
(`vqr1.evaluation.plots`) and writing files (`vqr1.evaluation.outcome`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vqr1.evaluation.figures import FigureOptions, Measured, ReferenceMeans, SetFigures
from vqr1.evaluation.means import SetMeans, figure_values, set_means
from vqr1.evaluation.published import PublishedGroup, published_groups
from vqr1.evaluation.tables import Table
from vqr1.iqa.correlation import Figure

NAMES = {
    "srcc": "SRCC",
    "krcc": "KRCC",
    "plcc": "PLCC",
    "plcc_logistic4": "PLCC, 4-p. fit",
    "plcc_logistic5": "PLCC, 5-p. fit",
    "rmse_logistic4": "RMSE, 4-p. fit",
    "rmse_logistic5": "RMSE, 5-p. fit",
}


@dataclass(frozen=True)
class Evaluation:
    """Everything a report is made of.

    Attributes:
        caption: model, prompt, mode and sets in words.
        sets: figures of each set, in order.
        options: how they were computed.
    """

    caption: str
    sets: tuple[SetFigures, ...]
    options: FigureOptions

    @property
    def means(self) -> SetMeans | None:
        """Means over sets; None with one set."""
        return set_means(self.sets, self.options) if len(self.sets) > 1 else None


def number(value: float) -> str:
    """A figure for a table: three decimals, `nan` where it does not exist."""
    return "nan" if math.isnan(value) else f"{value:.3f}"


def with_interval(measured: Measured) -> str:
    """A figure with its interval, where there is one."""
    interval = measured.interval
    if math.isnan(interval.low):
        return number(measured.value)
    return f"{number(measured.value)} [{number(interval.low)}, {number(interval.high)}]"


def all_figures(figures: SetFigures) -> dict[str, Measured]:
    """Every figure of a set by name, those that cannot be averaged over sets last."""
    values = figure_values(figures)
    values |= {f"rmse_{curve}": fit.rmse for curve, fit in figures.fits.items()}
    return values


def main_table(evaluation: Evaluation, detailed: bool) -> Table:
    """One row a set, and the means.

    Args:
        evaluation: what to show.
        detailed: intervals of every figure; otherwise of the SRCC only, so that the table fits a
            terminal.
    """
    names = list(all_figures(evaluation.sets[0]))
    if not detailed:
        # The second fit and its error are in the files.
        curves = evaluation.options.curves
        names = [name for name in names if not curves[1:] or not name.endswith(curves[1:])]

    def cells(values: Mapping[str, Measured]) -> list[str]:
        return [
            ""
            if name not in values
            else with_interval(values[name])
            if detailed or name == "srcc"
            else number(values[name].value)
            for name in names
        ]

    rows = [
        (
            figures.dataset,
            f"{figures.scored}/{figures.images}",
            f"{figures.invalid_rate:.1%}",
            *cells(all_figures(figures)),
        )
        for figures in evaluation.sets
    ]
    rules = []
    means = evaluation.means
    if means is not None:
        rules.append(len(rows))
        rows.append(("mean of sets", "", "", *cells(means.plain)))
        rows.append(("mean, size-weighted", "", "", *cells(means.weighted)))
    for figures in evaluation.sets:
        if figures.per_reference is not None:
            rules += [len(rows)] if len(rows) not in rules else []
            rows.append(_reference_row(figures.dataset, figures.per_reference, names, detailed))
    return Table(
        evaluation.caption,
        ("set", "scored", "invalid", *(NAMES[name] for name in names)),
        tuple(rows),
        "figures",
        _notes(evaluation),
        tuple(dict.fromkeys(rules[:2])),
    )


def _reference_row(
    dataset: str, means: ReferenceMeans, names: Sequence[str], detailed: bool
) -> tuple[str, ...]:
    values = {"srcc": means.srcc, "krcc": means.krcc, "plcc": means.plcc}
    cells = [
        ""
        if name not in values
        else with_interval(values[name])
        if detailed or name == "srcc"
        else number(values[name].value)
        for name in names
    ]
    return (f"{dataset}, mean per reference", f"{means.references} ref.", "", *cells)


def _notes(evaluation: Evaluation) -> tuple[str, ...]:
    options = evaluation.options
    notes = [
        f"{figures.dataset}: {text}" for figures in evaluation.sets for text in figures.warnings
    ]
    notes += [
        f"{figures.dataset}, {NAMES[f'plcc_{curve}']}: {fit.fit.reason}"
        for figures in evaluation.sets
        for curve, fit in figures.fits.items()
        if fit.fit.reason and fit.fit.reason != figures.srcc.reason
    ]
    notes += _missing_intervals(evaluation)
    if options.draws:
        units = ", ".join(
            f"{figures.dataset}: {figures.unit_count} {figures.units}"
            for figures in evaluation.sets
        )
        notes.append(
            f"{options.level:.0%} intervals: bootstrap, {options.draws} draws over {units}"
        )
    rule = {
        "valid_mean": "an image's score is the mean of its valid answers; an image without a valid "
        "answer has no score and is left out",
        "all_valid": "an image has a score only if all its answers are valid; other images are "
        "left out",
    }[options.rule]
    notes.append(f"invalid: answers without a readable score; {rule}")
    if options.curves:
        notes.append("RMSE is in the units of each set's opinion scores")
    return tuple(notes)


def _missing_intervals(evaluation: Evaluation) -> list[str]:
    """Why figures that exist have no interval, figures with one reason together."""
    if not evaluation.options.draws:
        return []
    notes = []
    for figures in evaluation.sets:
        missing: dict[str, list[str]] = {}
        for name, measured in all_figures(figures).items():
            if measured.interval.reason and not measured.reason:
                missing.setdefault(measured.interval.reason, []).append(NAMES[name])
        notes += [
            f"{figures.dataset}, no interval of {', '.join(names)}: {reason}"
            for reason, names in missing.items()
        ]
    return notes


def published_tables(evaluation: Evaluation) -> list[Table]:
    """Published figures of the same sets, ours in the last row: one table a group of models."""
    sets = [figures.dataset for figures in evaluation.sets]
    tables = []
    for number_, group in enumerate(published_groups()):
        found = group.covering(sets)
        if found is not None:
            tables.append(_published_table(evaluation, found, sets, number_))
    return tables


def _published_table(
    evaluation: Evaluation, group: PublishedGroup, sets: Sequence[str], number_: int
) -> Table:
    known = [name for name in sets if any(name in m.figures for m in group.models)]
    several = len(known) > 1
    rows = []
    for model in group.models:
        cells = [
            f"{number(model.figures[name].srcc)}/{number(model.figures[name].plcc)}"
            if name in model.figures
            else ""
            for name in known
        ]
        mean = model.mean(known)
        cells += [f"{number(mean.srcc)}/{number(mean.plcc)}" if mean else ""] if several else []
        rows.append((model.model, *cells))
    ours = {figures.dataset: figures for figures in evaluation.sets}
    for label, key in _our_rows(evaluation):
        values = [(ours[name].srcc.value, figure_values(ours[name])[key].value) for name in known]
        cells = [f"{number(srcc)}/{number(plcc)}" for srcc, plcc in values]
        if several:
            means = [sum(column) / len(column) for column in zip(*values, strict=True)]
            cells.append(f"{number(means[0])}/{number(means[1])}")
        rows.append((label, *cells))
    sources = dict.fromkeys(model.source for model in group.models)
    return Table(
        f"SRCC/PLCC beside published figures ({group.name}). Ours: {evaluation.caption}",
        ("model", *known, *(["mean"] if several else [])),
        tuple(rows),
        f"published_{number_ + 1}",
        (
            f"protocol of the published figures: {group.protocol}",
            f"from: {'; '.join(sources)}",
            f"checked: {group.checked}",
        ),
        (len(group.models),),
    )


def _our_rows(evaluation: Evaluation) -> list[tuple[str, str]]:
    rows = [("this evaluation, raw PLCC", "plcc")]
    if evaluation.options.curves:
        curve = evaluation.options.curves[0]
        rows.append((f"this evaluation, {NAMES[f'plcc_{curve}']}", f"plcc_{curve}"))
    return rows


def distortion_tables(evaluation: Evaluation) -> list[Table]:
    """Correlations among the images of each distortion, worst first."""
    return [
        Table(
            f"{figures.dataset} by distortion. {evaluation.caption}",
            ("distortion", "images", "SRCC", "KRCC", "PLCC"),
            tuple(
                (row.name, str(row.images), *map(_figure, (row.srcc, row.krcc, row.plcc)))
                for row in figures.distortions
            ),
            f"distortions_{figures.dataset}",
        )
        for figures in evaluation.sets
        if figures.distortions
    ]


def calibration_tables(evaluation: Evaluation) -> list[Table]:
    """Error by rising spread of the answers."""
    return [
        Table(
            f"{figures.dataset}: does the spread of the answers predict the error? Rank "
            f"correlation {number(figures.calibration.srcc.value)}. {evaluation.caption}",
            ("spread of answers", "images", "RMSE after fit"),
            tuple(
                (number(part.spread), str(part.images), number(part.rmse))
                for part in figures.calibration.bins
            ),
            f"calibration_{figures.dataset}",
        )
        for figures in evaluation.sets
        if figures.calibration.bins
    ]


def _figure(figure: Figure) -> str:
    return number(figure.value)


def all_tables(evaluation: Evaluation, published: bool) -> list[Table]:
    """Every table of the report, the main one with all intervals."""
    return [
        main_table(evaluation, detailed=True),
        *(published_tables(evaluation) if published else []),
        *distortion_tables(evaluation),
        *calibration_tables(evaluation),
    ]
