"""Published metrics beside those of an evaluation, as tables.

What it does: one table a group of published models, ours in the last rows. Where a source does not
state how a set was aggregated, ours is given both ways: over the whole file, and as the mean per
reference. A set that a model was trained on is marked, published or ours. What a PLCC is taken of
stands in a column of its own: raw scores, or scores after a map that is fitted on the test images.

Not here: the published metrics themselves (`vqr1.evaluation.published`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vqr1.evaluation.published import (
    PLCC_WORDS,
    PublishedGroup,
    PublishedMetrics,
    published_groups,
)
from vqr1.evaluation.report import TRAINED, Evaluation, number
from vqr1.evaluation.set_metrics import SetMetrics
from vqr1.evaluation.tables import Table


def published_tables(evaluation: Evaluation) -> list[Table]:
    """Published metrics of the same sets, ours in the last rows: one table a group of models."""
    sets = [metrics.dataset for metrics in evaluation.sets]
    tables = []
    for number_, group in enumerate(published_groups()):
        found = group.covering(sets)
        if found is not None:
            tables.append(_published_table(evaluation, found, sets, number_))
    return tables


def _published_table(
    evaluation: Evaluation, group: PublishedGroup, sets: Sequence[str], number_: int
) -> Table:
    known = [name for name in sets if any(name in m.metrics for m in group.models)]
    several = len(known) > 1
    rows = [
        (
            model.model,
            PLCC_WORDS[model.plcc_of],
            *_cells(known, model.metrics, model.trained_sets),
            *([_pair(model.mean(known), known, model.trained_sets)] if several else []),
        )
        for model in group.models
    ]
    ours = {metrics.dataset: metrics for metrics in evaluation.sets if metrics.dataset in known}
    trained = [name for name, f in ours.items() if f.trained_on and f.trained_on.trained]
    for label, plcc_of, values in _our_rows(evaluation, ours, group):
        mean = PublishedMetrics.mean([values[name] for name in known])
        rows.append(
            (
                label,
                plcc_of,
                *_cells(known, values, trained),
                *([_pair(mean, known, trained)] if several else []),
            )
        )
    sources = dict.fromkeys(model.source for model in group.models)
    return Table(
        f"SRCC/PLCC beside published metrics ({group.name}). Ours: {evaluation.caption}",
        ("model", "PLCC", *known, *([f"mean of {len(known)} sets"] if several else [])),
        tuple(rows),
        f"published_{number_ + 1}",
        (
            f"protocol of the published metrics: {group.protocol}",
            "PLCC: compare it with rows of the same kind only, where the source states it",
            *_aggregation_notes(ours, group),
            *_trained_notes(ours, trained, group, known),
            f"from: {'; '.join(sources)}",
            f"checked: {group.checked}",
        ),
        (len(group.models),),
    )


def _cells(
    known: Sequence[str], values: Mapping[str, PublishedMetrics], trained: Sequence[str]
) -> list[str]:
    return [_pair(values.get(name), [name], trained) for name in known]


def _pair(metrics: PublishedMetrics | None, sets: Sequence[str], trained: Sequence[str]) -> str:
    """SRCC/PLCC over some sets, marked where one of them was trained on; empty for None."""
    if metrics is None:
        return ""
    mark = TRAINED if any(name in trained for name in sets) else ""
    return f"{number(metrics.srcc)}/{number(metrics.plcc)}{mark}"


def _our_rows(
    evaluation: Evaluation, ours: Mapping[str, SetMetrics], group: PublishedGroup
) -> list[tuple[str, str, dict[str, PublishedMetrics]]]:
    """Our rows: raw, raw with means per reference where that may be meant, after the first fit.

    Returns:
        Of each its name, what its PLCC is taken of, and the metrics by set.
    """
    raw = {
        name: PublishedMetrics(f.srcc.value, f.metrics["plcc"].value) for name, f in ours.items()
    }
    rows = [("this evaluation", PLCC_WORDS["raw"], raw)]
    means = {
        name: metrics.per_reference
        for name, metrics in ours.items()
        if name in group.not_stated and metrics.per_reference is not None
    }
    if means:
        words = ", ".join(
            f"{name} as the mean over {found.references} of {found.total} references"
            for name, found in means.items()
        )
        per_reference = {
            name: PublishedMetrics(found.srcc.value, found.metrics["plcc"].value)
            for name, found in means.items()
        }
        rows.append((f"this evaluation, {words}", PLCC_WORDS["raw"], raw | per_reference))
    if evaluation.options.curves:
        key = f"plcc_{evaluation.options.curves[0]}"
        fitted = {
            name: PublishedMetrics(f.srcc.value, evaluation.all_metrics(f)[key].value)
            for name, f in ours.items()
        }
        fit = evaluation.labels[key].removeprefix("PLCC, ")
        rows.append(("this evaluation", fit, fitted))
    return rows


def _aggregation_notes(ours: Mapping[str, SetMetrics], group: PublishedGroup) -> list[str]:
    return [
        f"{name}: {text}; ours is given "
        + ("both ways" if ours[name].per_reference is not None else "over the whole file")
        for name, text in group.not_stated.items()
        if name in ours
    ]


def _trained_notes(
    ours: Mapping[str, SetMetrics],
    trained: Sequence[str],
    group: PublishedGroup,
    known: Sequence[str],
) -> list[str]:
    mark = TRAINED.strip()
    notes = []
    if any(name in known for model in group.models for name in model.trained_sets):
        notes.append(f"{mark} published: {group.trained_mark}")
    for name in trained:
        seen = ours[name].trained_on
        assert seen is not None
        notes.append(f"{mark} this evaluation, {name}: {seen.sentences()[0]}")
    return notes
