"""Metrics of answers to questions about quality, by kind and by group, as values and tables.

| kind | metrics |
|---|---|
| choice, comparison | accuracy with Wilson's interval, beside the accuracy of guessing |
| degradation | share of right classes, of right severities, and of both (accuracy), with Wilson's intervals |
| identification | share of whole lists that are right, with Wilson's interval; mean share of names that are right, as DepictQA counts (names in both / the longer list), and mean F1 of names, with bootstrap intervals |
| description | mean F1 of the distortions that are named and of words, with bootstrap intervals; mean length |

An answer that states nothing is wrong, and an empty description earns 0; how many there are stands
beside. The denominator of every metric is all questions of its row that were asked; those whose
image could not be read are counted apart.

Not here: what an answer states (`vqr1.iqa.question_answers`), asking (`questions.py`).
"""  # noqa: E501 - a table row cannot be broken

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vqr1.data.questions import Kind, Question
from vqr1.evaluation.report_values import finite
from vqr1.evaluation.tables import Table
from vqr1.iqa.bootstrap import Interval
from vqr1.iqa.proportions import mean_interval, wilson_interval
from vqr1.iqa.question_answers import (
    DQ_DISTORTIONS,
    f1_of_sets,
    f1_of_words,
    named_distortions,
    stated_distortions,
    stated_option,
    stated_part,
    word_count,
)
from vqr1.iqa.text_rules import stated_degradation

ALL = "all"


@dataclass(frozen=True)
class Graded:
    """What one answer earns.

    Attributes:
        question: what was asked.
        text: the answer; None where it could not be asked.
        stated: what it states, in words; None where it is invalid.
        values: its part of each metric, by name; 0 where it is invalid.
    """

    question: Question
    text: str | None
    stated: str | None
    values: Mapping[str, float]


def grade(question: Question, text: str | None) -> Graded:
    """Compare an answer with what is right.

    Args:
        question: what was asked.
        text: the answer; None where an image could not be read.
    """
    if text is None:
        return Graded(question, None, None, {})
    return _GRADES[question.kind](question, text)


def _grade_option(question: Question, text: str) -> Graded:
    number = stated_option(text, question.options)
    stated = None if number is None else question.options[number]
    values = {"accuracy": float(stated == question.answer), "chance": 1 / len(question.options)}
    return Graded(question, text, stated, values)


def _grade_degradation(question: Question, text: str) -> Graded:
    right, stated = json.loads(question.answer), stated_degradation(text)
    named, severe = stated[0] == right["distortion_class"], stated[1] == right["severity"]
    values = {
        "accuracy": float(named and severe), "class": float(named), "severity": float(severe)
    }  # fmt: skip
    nothing = None in stated
    return Graded(question, text, None if nothing else ", ".join(map(str, stated)), values)


def _grade_list(question: Question, text: str) -> Graded:
    right = stated_distortions(question.answer)
    assert right is not None, "the reader has read the list"
    found = stated_distortions(text, DQ_DISTORTIONS)
    if found is None:
        return Graded(question, text, None, dict.fromkeys(("accuracy", "names", "names_f1"), 0.0))
    longer = max(len(found), len(right))
    values = {
        "accuracy": float(found == right),
        "names": len(found & right) / longer if longer else 1.0,
        "names_f1": f1_of_sets(found, right),
    }
    return Graded(question, text, " and ".join(sorted(found)) or "none", values)


def _grade_description(question: Question, text: str) -> Graded:
    part = stated_part(text) or ""
    if not part:
        nothing = dict.fromkeys(("distortions_f1", "words_f1", "words"), 0.0)
        return Graded(question, text, None, nothing)
    values = {
        "distortions_f1": f1_of_sets(named_distortions(part), named_distortions(question.answer)),
        "words_f1": f1_of_words(part, question.answer),
        "words": float(word_count(part)),
    }
    return Graded(question, text, part, values)


_GRADES: Mapping[Kind, Callable[[Question, str], Graded]] = {
    "choice": _grade_option,
    "comparison": _grade_option,
    "degradation": _grade_degradation,
    "identification": _grade_list,
    "description": _grade_description,
}

LABELS = {
    "accuracy": "accuracy",
    "chance": "guessing",
    "class": "class",
    "severity": "severity",
    "names": "names right",
    "names_f1": "F1 of names",
    "distortions_f1": "F1 of distortions",
    "words_f1": "F1 of words",
    "words": "words",
}
"""What tables call the metrics."""
_PLAIN = ("chance", "words")
"""Metrics without an interval."""
_COUNTED = ("accuracy", "class", "severity")
"""Shares of right answers."""


@dataclass(frozen=True)
class Row:
    """Metrics of the questions of one group.

    Attributes:
        kind: of its questions.
        grouping: what they are grouped by; empty for all of a kind.
        group: the group.
        count: questions that were asked.
        invalid: answers that state nothing.
        unasked: questions whose image could not be read; in no metric.
        metrics: by name the mean and its interval, None for metrics that have none.
    """

    kind: Kind
    grouping: str
    group: str
    count: int
    invalid: int
    unasked: int
    metrics: Mapping[str, tuple[float, Interval | None]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its metrics in logs: `choice`, or `choice/type/what`."""
        return f"{self.kind}/{self.grouping}/{self.group}" if self.grouping else self.kind


def changes_of(before: Sequence[Graded], after: Sequence[Graded]) -> list[Graded]:
    """By question, how much more an answer earns after than before; without what guessing earns.

    Args:
        before: answers to all questions.
        after: to the same ones.
    """
    found = []
    for first, second in zip(before, after, strict=True):
        both = first.text is not None and second.text is not None
        values = {
            name: value - first.values[name]
            for name, value in (second.values if both else {}).items()
            if name != "chance"
        }
        found.append(replace(second, text=second.text if both else None, values=values))
    return found


def rows_of(
    graded: Sequence[Graded],
    *,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
    counted: Collection[str] = _COUNTED,
) -> list[Row]:
    """The row of each kind, each followed by those of its groups.

    Args:
        graded: all answers.
        level: of the intervals.
        draws: of the bootstrap; 0 gives its metrics no interval.
        seed: of the draws.
        counted: metrics that are shares of right answers; the others' intervals are bootstrapped.
    """

    def row(kind: Kind, grouping: str, group: str, members: Sequence[Graded]) -> Row:
        asked = [one for one in members if one.text is not None]
        names = list(asked[0].values) if asked else []
        metrics = {}
        for name in names:
            values = [one.values[name] for one in asked]
            interval = None
            if name in counted:
                interval = wilson_interval(round(sum(values)), len(values), level)
            elif name not in _PLAIN:
                interval = mean_interval(values, level, draws=draws, seed=seed)
            metrics[name] = (statistics.fmean(values), interval)
        invalid = sum(one.stated is None for one in asked)
        return Row(kind, grouping, group, len(asked), invalid, len(members) - len(asked), metrics)

    return [row(*key, members) for key, members in _groups(graded)]


def _groups(
    graded: Sequence[Graded],
) -> Iterator[tuple[tuple[Kind, str, str], list[Graded]]]:
    for kind in _GRADES:
        of_kind = [one for one in graded if one.question.kind == kind]
        if not of_kind:
            continue
        yield (kind, "", ALL), of_kind
        for grouping in dict.fromkeys(g for one in of_kind for g in one.question.groups):
            groups: dict[str, list[Graded]] = {}
            for one in of_kind:
                if grouping in one.question.groups:
                    groups.setdefault(one.question.groups[grouping], []).append(one)
            for group in sorted(groups):
                yield (kind, grouping, group), groups[group]


def metric_values(rows: Sequence[Row]) -> dict[str, float]:
    """Metrics for the log, by name."""
    found: dict[str, float] = {}
    for row in rows:
        found |= {f"questions/{row.name}/{name}": value for name, (value, _) in row.metrics.items()}
        found[f"questions/{row.name}/questions"] = float(row.count)
        if row.count:
            found[f"questions/{row.name}/invalid_rate"] = row.invalid / row.count
    return found


def json_values(rows: Sequence[Row]) -> dict[str, Any]:
    """Rows as plain values for JSON, by name."""
    return {
        row.name: {
            "questions": row.count,
            "invalid": row.invalid,
            "unasked": row.unasked,
            **{
                name: finite(value)
                if interval is None
                else [finite(value), finite(interval.low), finite(interval.high)]
                for name, (value, interval) in row.metrics.items()
            },
        }
        for row in rows
    }


def headline(rows: Sequence[Row]) -> float:
    """The first metric of the first kind; NaN where no question could be asked."""
    return next((value for row in rows for value, _ in row.metrics.values()), float("nan"))


def tables_of(rows: Sequence[Row], caption: str, level: float) -> list[Table]:
    """One table a kind."""
    kinds = list(dict.fromkeys(row.kind for row in rows))
    return [_table([row for row in rows if row.kind == kind], caption, level) for kind in kinds]


def _table(rows: Sequence[Row], caption: str, level: float) -> Table:
    kind, names = rows[0].kind, list(rows[0].metrics)
    unasked = rows[0].unasked
    notes = [
        f"{level:.0%} intervals: of accuracies Wilson's, of means the bootstrap's over questions. "
        "An answer that states nothing is wrong; how many there are is the last column."
    ]
    if kind == "description":
        notes.append(
            "Compared with the reference by words alone: whether a sentence is true of the image "
            "is not known here."
        )
    if unasked:
        notes.append(f"{unasked} questions were not asked: an image could not be read.")
    return Table(
        f"{kind.capitalize()} questions: {caption}",
        ("questions", "count", *(LABELS[name] for name in names), "invalid"),
        tuple(
            (
                row.group if not row.grouping else f"{row.grouping}: {row.group}",
                str(row.count),
                *(_cell(row.metrics.get(name)) for name in names),
                str(row.invalid),
            )
            for row in rows
        ),
        f"questions_{kind}",
        tuple(notes),
    )


def _cell(metric: tuple[float, Interval | None] | None) -> str:
    if metric is None:
        return "-"
    value, interval = metric
    if interval is None:
        return f"{value:.3f}" if value < 1 else f"{value:.1f}"
    bounds = "" if interval.reason else f" [{interval.low:.3f}, {interval.high:.3f}]"
    return f"{value:.3f}{bounds}"
