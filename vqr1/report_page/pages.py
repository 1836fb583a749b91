"""The page of each kind of run, put together from its folder's files.

Which kind a folder is of is known by the records in it (`vqr1.outputs.kinds_of`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from vqr1.config.metrics import HEADLINE
from vqr1.counted import counted
from vqr1.errors import DataError
from vqr1.outputs import CHAIN, EVALUATION, SUMMARY, SWEEP, TRAINING, kinds_of
from vqr1.report_page import files
from vqr1.report_page.blocks import (
    about,
    answers_of,
    interval_row,
    number_of,
    scatters,
    tables_of,
    worst_of,
)
from vqr1.report_page.charts import (
    curve_chart,
    interval_chart,
)
from vqr1.report_page.files import ScoredImage
from vqr1.report_page.sections import (
    Block,
    Card,
    Chart,
    Note,
    Page,
    Section,
    TableBlock,
)
from vqr1.report_page.sweep_page import sweep_page

CURVES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Validation: correlation with MOS", ("val/srcc", "val/plcc", "val/krcc")),
    ("Reward", ("train/reward/*",)),
    ("Loss", ("train/loss", "train/policy_loss", "train/cross_entropy")),
    ("Zero-variance groups, share", ("train/zero_variance_rate",)),
    ("KL to the reference", ("train/kl",)),
    ("Invalid answers, share", ("train/invalid_rate", "val/invalid_rate")),
    ("Response length, tokens", ("train/response_length",)),
    ("Entropy of the policy", ("train/entropy",)),
    ("Gradient norm", ("train/grad_norm",)),
    ("Learning rate", ("train/lr",)),
)  # fmt: skip
"""Title of a chart, and the metrics in it; a star stands for all names that begin so."""


def page_of(folder: Path) -> Page:
    """The page of a finished run.

    Args:
        folder: of a training, an evaluation, a comparison or a sweep.

    Raises:
        DataError: it holds no result of these, or a file of it is damaged.
    """
    kinds = kinds_of(folder)
    if CHAIN in kinds:
        raise DataError(f"{folder}: holds a chain of trainings; give the folder of one of them")
    if kinds & {SWEEP, SUMMARY}:
        return sweep_page(folder)
    summary = files.read_object(folder / "summary.json")
    if not summary:
        raise DataError(
            f"{folder}: holds no finished run (summary.json is missing); give the folder of a "
            "training, an evaluation, a comparison or a sweep that has ended"
        )
    if TRAINING in kinds:
        return training_page(folder, summary)
    if "compared" in summary:
        return comparison_page(folder, summary)
    if kinds and not any(EVALUATION in kind for kind in kinds):
        raise DataError(f"{folder}: holds {' and '.join(sorted(kinds))}, which has no report")
    return evaluation_page(folder, summary)


def training_page(folder: Path, summary: Mapping[str, Any]) -> Page:
    """A training: metrics before and after, curves, scatter, answers, worst images."""
    config, text = files.read_config(folder)
    record = files.read_object(folder / "run.json")
    before, after = (
        files.read_scored(folder / "predictions" / f"test_{when}.csv")
        for when in ("before", "after")
    )
    tested = summary.get("test_images") is not None
    step, by = summary.get("exported_step"), summary.get("exported_by")
    lead = (
        f"{_setting(config)}. The weights after step {step} were exported, chosen by {by}."
        f" The run began {_moment(record.get('started'))} and took "
        f"{_duration(summary.get('seconds'))}."
    )
    results: list[Block] = [*tables_of(folder)]
    if not tested:
        results.insert(0, Note("No test images were evaluated (validation.test=false)."))
    return Page(
        "training",
        f"Training of {_name_of(config, 'model')} on {_sets(config)}",
        lead,
        _training_cards(summary),
        [
            Section("Results", results),
            Section("Curves", _curves(folder)),
            Section(
                "Predictions of the test images",
                [
                    *scatters(before, "before training"),
                    *scatters(after, "after training"),
                ],
            ),
            Section("Images scored worst, after training", worst_of(folder)),
            Section("Answers before and after", answers_of(folder, before, after)),
            *about(folder, text, record.get("overrides")),
        ],
    )


def _training_cards(summary: Mapping[str, Any]) -> list[Card]:
    found = []
    after, before = (number_of(summary.get(f"test_{HEADLINE}_{w}")) for w in ("after", "before"))
    if math.isfinite(after):
        found.append(Card("Test SRCC", f"{after:.3f}", f"{before:.3f} before training"))
        gain = summary.get(f"test_{HEADLINE}_gain_interval")
        if isinstance(gain, list):
            low, high = map(number_of, gain)
            found.append(
                Card("Gain", f"{after - before:+.3f}", f"95 % interval {low:+.3f} to {high:+.3f}")
            )
    best = number_of(summary.get(f"val_{HEADLINE}_best"))
    if math.isfinite(best):
        count = summary.get("val_images")
        found.append(Card("Validation SRCC", f"{best:.3f}", f"{count} images"))
    if summary.get("test_images") is not None:
        unscored = summary.get("test_unscored_after") or 0
        found.append(
            Card("Test images", str(summary["test_images"]), f"{unscored} without a score")
        )
    found.append(Card("Exported step", str(summary.get("exported_step"))))
    return found


def _curves(folder: Path) -> list[Block]:
    curves = files.read_curves(folder)
    if not curves:
        return [Note("The run's folder holds no metrics of its steps (logger=csv or mlflow do).")]
    blocks: list[Block] = []
    for title, wanted in CURVES:
        series = {
            name.split("/", 1)[1] if title.startswith("Reward") else name: curves[name]
            for pattern in wanted
            for name in curves
            if name == pattern or (pattern.endswith("*") and name.startswith(pattern[:-1]))
        }
        if series:
            names = ", ".join(series)
            last = "; ".join(
                f"{name} ends at {points[-1][1]:.4g}" for name, points in series.items()
            )
            description = f"{title} over optimizer steps: {names}. {last}."
            blocks.append(Chart(title, curve_chart(series, _axis(title), description)))
    rows = [
        (name, str(len(points)), f"{points[0][1]:.4g}", f"{points[-1][1]:.4g}", str(points[-1][0]))
        for name, points in curves.items()
    ]
    heads = ("metric", "values", "first", "last", "at step")
    blocks.append(TableBlock("All metrics that were logged", heads, rows, folded=True))
    return blocks


def _axis(title: str) -> str:
    return title.split(": ")[-1].split(",")[0]


def evaluation_page(folder: Path, summary: Mapping[str, Any]) -> Page:
    """An evaluation: metrics with intervals, scatter with the fitted curve, worst images."""
    config, text = files.read_config(folder)
    metrics = files.read_object(folder / "metrics.json")
    rule = str(_at(config, "mode.score_rule") or "valid_mean")
    images: list[ScoredImage] = []
    for name in ("predictions.csv", "predictions.parquet", "predictions/evaluated.csv"):
        images = images or files.read_scored(folder / name, rule)
    sets = metrics.get("sets") or {}
    return Page(
        "evaluation",
        f"Evaluation on {_sets_named(summary, config)}",
        f"{summary.get('caption') or 'Evaluation'}. It took {_duration(summary.get('seconds'))}.",
        _evaluation_cards(summary),
        [
            Section("Results", [*_set_intervals(sets), *tables_of(folder)]),
            Section("Predictions", scatters(images, "", sets)),
            Section("Images scored worst", worst_of(folder)),
            *about(folder, text, None),
        ],
    )


def _evaluation_cards(summary: Mapping[str, Any]) -> list[Card]:
    found = []
    value = number_of(summary.get(HEADLINE))
    if math.isfinite(value):
        low, high = map(number_of, summary.get(f"{HEADLINE}_interval") or (math.nan, math.nan))
        interval = f"interval {low:.3f} to {high:.3f}" if math.isfinite(low) else "no interval"
        many = len(summary.get("sets") or {}) > 1
        found.append(Card("SRCC, mean of sets" if many else "SRCC", f"{value:.3f}", interval))
    sets: Mapping[str, Any] = summary.get("sets") or {}
    if len(sets) == 1:
        one = next(iter(sets.values()))
        if math.isfinite(plcc := number_of(one.get("plcc"))):
            found.append(Card("PLCC", f"{plcc:.3f}", "of raw scores"))
    if sets:
        total = sum(int(one.get("images", 0)) for one in sets.values())
        scored = sum(int(one.get("scored", 0)) for one in sets.values())
        found.append(Card("Images", str(total), f"{scored} with a score"))
    return found


def _set_intervals(sets: Mapping[str, Any]) -> list[Block]:
    rows = [interval_row(name, one.get(HEADLINE) or {}, "value") for name, one in sets.items()]
    if sum(math.isfinite(row.value) for row in rows) < 2:
        return []
    description = "SRCC of each data set with its interval; the values are in the table below."
    return [Chart("SRCC by data set", interval_chart(rows, "SRCC", description), wide=True)]


def comparison_page(folder: Path, summary: Mapping[str, Any]) -> Page:
    """A comparison of evaluations: each run with its interval, and the tests of each pair."""
    _, text = files.read_config(folder)
    blocks: list[Block] = []
    sets: Mapping[str, Any] = summary.get("sets") or {}
    for name, found in sets.items():
        rows = [
            *(interval_row(run, one, HEADLINE) for run, one in (found.get("runs") or {}).items()),
            # Of the settings of a sweep, which repeat seeds.
            *(
                interval_row(setting, one.get(HEADLINE) or {}, "value")
                for setting, one in (found.get("settings") or {}).items()
            ),
        ]
        if rows:
            description = f"SRCC of each run on {name} with its interval, as in the table below."
            title = f"{name}, {counted(int(found.get('images', 0)), 'image')}"
            blocks.append(Chart(title, interval_chart(rows, "SRCC", description), wide=True))
    compared = summary.get("compared") or []
    return Page(
        "comparison",
        f"Comparison on {', '.join(sets)}",
        f"Compared: {', '.join(map(str, compared))}. It took {_duration(summary.get('seconds'))}.",
        [],
        [Section("Results", [*blocks, *tables_of(folder)]), *about(folder, text, None)],
    )


def _setting(config: Mapping[str, Any]) -> str:
    stage = str(_at(config, "stage._target_") or "").rsplit(".", 1)[-1].removesuffix("Stage")
    terms = _at(config, "reward.terms")
    words = [f"Stage {stage.lower()}" if stage else "Training"]
    if isinstance(terms, Mapping) and stage == "Grpo":
        words.append(f"reward {', '.join(map(str, terms))}")
    if (prompt := _name_of(config, "prompt")) != "?":
        words.append(f"prompt {prompt}")
    words.append(f"seed {config.get('seed', '?')}")
    return ", ".join(words)


def _sets(config: Mapping[str, Any]) -> str:
    parts = _at(config, "dataset.parts")
    if isinstance(parts, Mapping) and parts:
        return " + ".join(map(str, parts))
    return str(_at(config, "dataset.alias") or _name_of(config, "dataset"))


def _sets_named(summary: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    sets = summary.get("sets")
    if isinstance(sets, Mapping) and sets:
        return ", ".join(map(str, sets))
    return "questions" if "questions" in summary else _sets(config)


def _name_of(config: Mapping[str, Any], group: str) -> str:
    return str(_at(config, f"{group}.name") or "?")


def _at(config: Mapping[str, Any], key: str) -> Any:
    found: Any = config
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _moment(started: object) -> str:
    try:
        return f"{datetime.fromisoformat(str(started)):%Y-%m-%d %H:%M %Z}".rstrip()
    except ValueError:
        return "at an unknown time"


def _duration(seconds: object) -> str:
    value = number_of(seconds)
    if not math.isfinite(value):
        return "an unknown time"
    if value < 120:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"
