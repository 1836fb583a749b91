"""The parts that pages share: tables, scatters, worst images, answers, configuration, environment.

Each is read from a run's folder, and empty where the folder has none of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vqr1.config.plain import flatten
from vqr1.counted import counted
from vqr1.iqa.logistic import LogisticFit
from vqr1.report_page import files
from vqr1.report_page.charts import IntervalRow, drawn, scatter_chart, shortened
from vqr1.report_page.files import ScoredImage
from vqr1.report_page.sections import (
    Answer,
    Answers,
    Block,
    Chart,
    Facts,
    ImageCard,
    ImageCards,
    Section,
    Source,
    TableBlock,
)
from vqr1.tracking.environment import FILE as ENVIRONMENT
from vqr1.tracking.secrets import masked_text

MOST_ANSWERS = 24
"""Images whose answers before and after training are shown."""
MOST_SHEET = 24
"""Worst images shown of each data set."""


def tables_of(folder: Path) -> list[Block]:
    """The tables of a report with their notes; of an earlier version their cells."""
    kept = files.read_list(folder / files.TABLES)
    if not kept:
        return [
            TableBlock(name, heads, rows)
            for name, heads, rows in files.read_csv_tables(folder / "tables", "*.csv")
        ]
    return [
        TableBlock(
            str(table.get("title", "")),
            [str(cell) for cell in table.get("columns", ())],
            [[str(cell) for cell in row] for row in table.get("rows", ())],
            [str(note) for note in table.get("notes", ())],
            text=[i for i, head in enumerate(table.get("columns", ())) if head == "remarks"],
        )
        for table in kept
    ]


def scatters(
    images: Sequence[ScoredImage], when: str, metrics: Mapping[str, Any] | None = None
) -> list[Block]:
    """A scatter of each data set.

    Args:
        images: of all sets.
        when: added to titles; empty adds nothing.
        metrics: by set, what `metrics.json` holds of it, its fits above all.
    """
    blocks: list[Block] = []
    for name in dict.fromkeys(one.dataset for one in images):
        own = [one for one in images if one.dataset == name]
        shown = drawn(own)
        if not shown:
            continue
        title = f"{name}, {when}" if when else name
        note = f"{counted(len(shown), 'image')}"
        if len(shown) < len(own):
            note += f" of {len(own)}: a random subset, or those with a score"
        curve = _fitted(shown, (metrics or {}).get(name))
        if curve:
            note += "; the line is the fitted logistic map"
        description = f"MOS against predicted score of {note} of {title}."
        blocks.append(Chart(title, scatter_chart(shown, description, curve), note))
    return blocks


def _fitted(images: Sequence[ScoredImage], metrics: Any) -> list[tuple[float, float]]:
    """Points of the first fitted curve that exists, over the range of the scores."""
    fits = metrics.get("fits") if isinstance(metrics, Mapping) else None
    for curve, fit in (fits or {}).items():
        parameters = [number_of(value) for value in fit.get("parameters") or ()]
        if curve not in ("logistic4", "logistic5") or fit.get("reason") or not parameters:
            continue
        none: Any = None
        found = LogisticFit(curve, tuple(parameters), none, none, 0, 0)
        scores = [one.score for one in images]
        grid = np.linspace(min(scores), max(scores), 60)
        return list(zip(grid.tolist(), found(grid).tolist(), strict=True))
    return []


def worst_of(folder: Path) -> list[Block]:
    """The worst images of each data set."""
    blocks: list[Block] = []
    for path in sorted((folder / files.WORST).glob("*.json")):
        found = files.read_list(path)[:MOST_SHEET]
        if found:
            blocks.append(
                ImageCards(str(found[0].get("dataset", path.stem)), [*map(_image_card, found)])
            )
    return blocks


def _image_card(found: Mapping[str, Any]) -> ImageCard:
    mos, fitted, score = (number_of(found.get(key)) for key in ("mos", "fitted", "score"))
    error = fitted - mos
    direction = "too high" if error > 0 else "too low"
    thumbnail = found.get("thumbnail")
    own = isinstance(thumbnail, str) and thumbnail.startswith("data:image/jpeg;base64,")
    return ImageCard(
        str(found.get("image", "")),
        thumbnail if own else None,
        (
            f"MOS {mos:.2f}, score {score:.2f}",
            f"fitted {fitted:.2f}: {direction} by {abs(error):.2f}",
        ),
        shortened(str(found.get("reasoning", "")), 400),
    )


def answers_of(
    folder: Path, before: Sequence[ScoredImage], after: Sequence[ScoredImage]
) -> list[Block]:
    """The same images before and after; of a run without a test, of its validations."""
    if before and after:
        first = {(one.dataset, one.image): one for one in before}
        drawn_after = sorted(
            (one for one in after if (one.dataset, one.image) in first),
            key=lambda one: _order(one.image),
        )
        rows = [_answer(first[one.dataset, one.image], one) for one in drawn_after[:MOST_ANSWERS]]
        title = f"{counted(len(rows), 'test image')}, drawn at random"
        return [Answers(title, ("before training", "after training"), rows)]
    steps = sorted((folder / "answers").glob("step_*.csv"))
    if len(steps) < 2:
        return []
    one, other = (_kept(path) for path in (steps[0], steps[-1]))
    rows = [_answer(one[key], other[key]) for key in one if key in other]
    words = [f"step {int(path.stem.removeprefix('step_'))}" for path in (steps[0], steps[-1])]
    title = f"{counted(len(rows), 'validation image')}, drawn at random"
    return [Answers(title, (words[0], words[1]), rows[:MOST_ANSWERS])] if rows else []


def _order(name: str) -> int:
    """A random order that is the same in every run."""
    return int.from_bytes(np.random.default_rng(list(name.encode())).bytes(8))


def _kept(path: Path) -> dict[tuple[str, str], ScoredImage]:
    rows = files.read_scored(path, text="response")
    return {(one.dataset, one.image): one for one in rows}


def _answer(before: ScoredImage, after: ScoredImage) -> Answer:
    def shown(one: ScoredImage) -> tuple[str, str]:
        score = f"{one.score:.2f}" if math.isfinite(one.score) else "no score"
        return score, shortened(one.text, 600)

    return Answer(after.image, f"{after.mos:.2f}", shown(before), shown(after))


def about(folder: Path, config_text: str, overrides: Any) -> list[Section]:
    """Configuration and environment of a run.

    Args:
        folder: of the run.
        config_text: its `config.yaml`.
        overrides: what its command line set, as its record has it; None where unknown.
    """
    given: list[Block] = []
    if isinstance(overrides, list) and overrides:
        # The record is its owner's alone; the page goes to the run's artifacts.
        lines = [masked_text(str(one)) for one in overrides]
        given.append(Source("What the command line set", "\n".join(lines)))
    if config_text:
        given.append(Source("Whole configuration (config.yaml)", config_text))
    environment = flatten(files.read_object(folder / ENVIRONMENT))
    facts = {name: str(value) for name, value in environment.items()}
    return [
        Section("Configuration", given),
        Section("Environment", [Facts(facts)] if facts else []),
    ]


def number_of(value: object) -> float:
    """A number of a JSON file; NaN for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value)


def interval_row(name: str, found: Mapping[str, Any], value: str) -> IntervalRow:
    """A row of an interval chart from a JSON object that has `low` and `high`.

    Args:
        name: of the row.
        found: the object.
        value: key of the value.
    """
    low, high = (number_of(found.get(key)) for key in ("low", "high"))
    return IntervalRow(name, number_of(found.get(value)), low, high)
