"""The table and the plot of the study from its small files; nothing is trained or loaded.

    python experiments/real_vlm/analyse.py            # results/*.json -> table.md, srcc.png

`results/earlier/` holds runs of earlier recipes and warm starts, whose table is `earlier.md`.

For each finished run: SRCC inside (BIQ2021's test split, also without the images that are
near-identical to training images) and outside the set (the demo set's test split) with 95 %
bootstrap intervals over images, how many images have a score, and whether the answers' standard
deviation predicts the error: Spearman's correlation of it with |MOS - (a + b score)|, a and b by
least squares. For lines of several seeds the mean, the least and the greatest SRCC; and how far the
mean of the main line's seeds is above each other finished line, with intervals over the same
images.

Of runs with reasoning (`results/NAME_SET_reasoning.csv`) also `words.md`: for each word that stands
in one of a hundred answers, how far the mean score of those answers is from that of all, in
standard deviations of the scores, and the same for the MOS of their images; and the share of the
scores' variance that lies between different reasonings, of those written at least twice.

Not here: the runs (`study.py`), the ridge (`ridge.py`).
"""

from __future__ import annotations

import csv
import json
import sys
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]
from lines import LINES  # noqa: E402

from vqr1.iqa.bootstrap import bootstrap_draws, interval_of_draws  # noqa: E402
from vqr1.iqa.correlation import srcc  # noqa: E402

RESULTS = HERE / "results"
EARLIER = RESULTS / "earlier"
NEAR = RESULTS / "near_identical.txt"
SETS = ("inside", "outside")
APART = "without near-identical"
COLUMNS = ("inside", APART, "outside")
MAIN = "fidelity"
"""The line that the others are compared with."""


@dataclass(frozen=True)
class Measured:
    """Metrics of one run on one set.

    Attributes:
        srcc: with the lower and upper end of its interval.
        draws: SRCC of each bootstrap draw.
        std_predicts: correlation of the answers' standard deviation with the error; NaN where
            there is one answer an image.
        std: mean of the standard deviations; NaN likewise.
        scored: images with a score.
        images: all images.
    """

    srcc: tuple[float, float, float]
    draws: Any
    std_predicts: float
    std: float
    scored: int
    images: int


def measured(table: Path, without: Collection[str] = ()) -> Measured:
    """Metrics of a table of image, MOS, score and standard deviation.

    Args:
        table: the file; rows are taken in the order of their names, so that draws of two tables of
            the same images are of the same images.
        without: names of images to pass over.
    """
    with table.open(newline="", encoding="utf-8") as file:
        every = [row for row in csv.DictReader(file) if row["image"] not in without]
    rows = sorted((row for row in every if row["score"]), key=lambda row: row["image"])
    mos, scores = (np.array([float(row[key]) for row in rows]) for key in ("mos", "score"))
    draws = bootstrap_draws(srcc, scores, mos)
    interval: Any = interval_of_draws(draws, len(rows))
    std = np.array([float(row["std"]) if row["std"] else np.nan for row in rows])
    there = ~np.isnan(std)
    predicts = float("nan")
    if there.sum() > 2:
        slope, start = np.polyfit(scores, mos, 1)
        errors = np.abs(mos - start - slope * scores)
        predicts = srcc(std[there], errors[there])
    mean = float(std[there].mean()) if there.any() else float("nan")
    found = (srcc(scores, mos), float(interval.low), float(interval.high))
    return Measured(found, draws, predicts, mean, len(rows), len(every))


def words(table: Path) -> list[str]:
    """Lines of Markdown on the words of a table of reasonings."""
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    count = np.array([float(row["answers"]) for row in rows])
    total = count.sum()
    deviations, between = [], 0.0
    for key in ("mos", "score"):
        value, std = (np.array([float(row[name]) for row in rows]) for name in (key, f"{key}_std"))
        away = value - np.average(value, weights=count)
        variance = np.average(away**2 + std**2, weights=count)
        between = between_share(value, std, count)
        deviations.append(away / np.sqrt(variance))
    lines = [
        f"**{table.stem}**: {len(rows)} reasonings of {total:.0f} answers; {between:.2f} of the "
        "scores' variance lies between those that were written at least twice (omega squared).",
        "",
        "| word | share of answers | score | MOS |",
        "|---|---|---|---|",
    ]
    texts = [row["reasoning"].lower().split() for row in rows]
    found = []
    for word in {word for text in texts for word in text}:
        there = count * [word in text for text in texts]
        if there.sum() >= 0.01 * total:
            mos, score = (np.average(away, weights=there) for away in deviations)
            found.append((score, mos, there.sum() / total, word))
    for score, mos, share, word in sorted(found):
        lines.append(f"| {word} | {share:.2f} | {score:+.2f} | {mos:+.2f} |")
    return [*lines, ""]


def between_share(mean: Any, std: Any, count: Any) -> float:
    """Share of the variance between groups, omega squared, of groups of at least two.

    Args:
        mean: [G] of each group.
        std: [G] standard deviation of each group, divided by its size.
        count: [G] sizes.
    """
    several = count > 1
    mean, std, count = mean[several], std[several], count[several]
    total, groups = count.sum(), len(count)
    if groups < 2:
        return float("nan")
    between = (count * (mean - np.average(mean, weights=count)) ** 2).sum()
    within = (count * std**2).sum()
    noise = within / (total - groups)
    return float((between - (groups - 1) * noise) / (between + within + noise))


def names(results: Path) -> list[str]:
    """A folder's finished runs in the order of the lines; before them those of no line."""
    order = [line.name for line in LINES]

    def place(name: str) -> tuple[int, str]:
        line = name.rpartition("_seed")[0]
        return (order.index(line) if line in order else -1, name)

    return sorted((path.stem for path in results.glob("*.json")), key=place)


def read(results: Path, near: Collection[str]) -> dict[str, dict[str, Measured]]:
    """Metrics of each finished run of a folder.

    Args:
        results: the folder.
        near: names of test images that are near-identical to training images.
    """
    found: dict[str, dict[str, Measured]] = {}
    for name in names(results):
        tables = {label: results / f"{name}_{label}.csv" for label in SETS}
        found[name] = {label: measured(file) for label, file in tables.items() if file.is_file()}
        if "inside" in found[name]:
            found[name][APART] = measured(tables["inside"], near)
    return found


def table(found: dict[str, dict[str, Measured]], results: Path) -> str:
    """A row for each run of a folder, as Markdown."""
    lines = [
        "| run | SRCC inside | without near-identical | SRCC outside | scored | std of answers "
        "| std predicts the error | min of steps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, sets in found.items():
        record = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
        cells = ["-", "-", "-"]
        for number, label in enumerate(COLUMNS):
            if label in sets:
                value, low, high = sets[label].srcc
                cells[number] = f"{value:.3f} [{low:.3f}, {high:.3f}]"
        cells.append(", ".join(f"{sets[s].scored}/{sets[s].images}" for s in SETS if s in sets))
        inside = sets.get("inside")
        deviations = [inside.std, inside.std_predicts] if inside else [float("nan")] * 2
        cells += ["-" if value != value else f"{value:.2f}" for value in deviations]
        cells.append(f"{record['step_seconds'] / 60:.0f}" if "step_seconds" in record else "-")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def seeds_table(found: dict[str, dict[str, Measured]]) -> str:
    """Lines of several seeds, and the main line against each other one, as Markdown."""
    runs: defaultdict[str, list[Measured]] = defaultdict(list)
    for name, sets in found.items():
        if "inside" in sets:
            runs[name.rpartition("_seed")[0] or name].append(sets["inside"])
    main = runs.get(MAIN, [])
    lines = [
        f"| line | seeds | SRCC inside: mean, least, greatest | mean of {MAIN} minus this |",
        "|---|---|---|---|",
    ]
    for line, several in runs.items():
        values = [run.srcc[0] for run in several]
        mean = np.mean(values)
        cell = "-"
        if main and line != MAIN:
            draws = np.mean([run.draws for run in main], axis=0)
            draws = draws - np.mean([run.draws for run in several], axis=0)
            interval: Any = interval_of_draws(draws, several[0].scored)
            gain = np.mean([run.srcc[0] for run in main]) - mean
            cell = f"{gain:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
        seeds = f"{mean:.3f}, {min(values):.3f}, {max(values):.3f}"
        lines.append(f"| {line} | {len(values)} | {seeds} | {cell} |")
    return "\n".join(lines) + "\n"


def figure(found: dict[str, dict[str, Measured]], path: Path) -> None:
    """SRCC of each run inside and outside the set, with intervals."""
    from matplotlib.figure import Figure

    plot = Figure(figsize=(7, 1 + 0.3 * len(found)), layout="constrained")
    axes = plot.subplots()
    for label, marker, shift in zip(SETS, "os", (-0.12, 0.12), strict=True):
        there = [(i, sets[label].srcc) for i, sets in enumerate(found.values()) if label in sets]
        values = np.array([value for _, value in there]).reshape(-1, 3)
        axes.errorbar(
            values[:, 0],
            [i + shift for i, _ in there],
            xerr=np.abs(values[:, 1:] - values[:, :1]).T,
            fmt=marker,
            label=label,
        )
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.set_xlabel("SRCC, 95 % intervals over images")
    axes.legend()
    plot.savefig(path, dpi=120)


def main() -> None:
    """Read, compute, write."""
    near = frozenset(NEAR.read_text(encoding="utf-8").splitlines())
    found, earlier = read(RESULTS, near), read(EARLIER, near)
    text = table(found, RESULTS) + "\n" + seeds_table(found)
    (HERE / "table.md").write_text(text, encoding="utf-8")
    (HERE / "earlier.md").write_text(table(earlier, EARLIER), encoding="utf-8")
    figure(found, HERE / "srcc.png")
    tables = sorted(RESULTS.glob("*_inside_reasoning.csv"))
    if tables:
        lines = [line for path in tables for line in words(path)]
        (HERE / "words.md").write_text("\n".join(lines), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
