"""The table and the plot of the study from its small files; nothing is trained or loaded.

    python experiments/real_vlm/analyse.py            # results/*.json -> table.md, srcc.png

For each finished run: SRCC inside (BIQ2021's test split) and outside the set (the demo set's test
split) with 95 % bootstrap intervals over images, and whether the answers' standard deviation
predicts the error: Spearman's correlation of it with |MOS - (a + b score)|, a and b by least
squares.

Of runs with reasoning (`results/NAME_SET_reasoning.csv`) also `words.md`: for each word that stands
in one of a hundred answers, how far the mean score of those answers is from that of all, in
standard deviations of the scores, and the same for the MOS of their images; and the share of the
scores' variance that lies between different reasonings.

Not here: the runs (`study.py`), the ridge (`ridge.py`).
"""

from __future__ import annotations

import csv
import json
import sys
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
SETS = ("inside", "outside")


@dataclass(frozen=True)
class Measured:
    """Metrics of one run on one set.

    Attributes:
        srcc: with the lower and upper end of its interval.
        std_predicts: correlation of the answers' standard deviation with the error; NaN where
            there is one answer an image.
        std: mean of the standard deviations; NaN likewise.
        images: those with a score.
    """

    srcc: tuple[float, float, float]
    std_predicts: float
    std: float
    images: int


def measured(table: Path) -> Measured:
    """Metrics of a table of image, MOS, score and standard deviation."""
    with table.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["score"]]
    mos, scores = (np.array([float(row[key]) for row in rows]) for key in ("mos", "score"))
    interval: Any = interval_of_draws(bootstrap_draws(srcc, scores, mos), len(rows))
    std = np.array([float(row["std"]) if row["std"] else np.nan for row in rows])
    there = ~np.isnan(std)
    predicts = float("nan")
    if there.sum() > 2:
        slope, start = np.polyfit(scores, mos, 1)
        errors = np.abs(mos - start - slope * scores)
        predicts = srcc(std[there], errors[there])
    mean = float(std[there].mean()) if there.any() else float("nan")
    found = (srcc(scores, mos), float(interval.low), float(interval.high))
    return Measured(found, predicts, mean, len(rows))


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
        between = np.average(away**2, weights=count) / variance
        deviations.append(away / np.sqrt(variance))
    lines = [
        f"**{table.stem}**: {len(rows)} reasonings of {total:.0f} answers; {between:.2f} of the "
        "scores' variance lies between them.",
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


def names() -> list[str]:
    """Finished runs in the order of the lines; the ridge first."""
    order = [line.name for line in LINES]

    def place(name: str) -> tuple[int, str]:
        line = name.rpartition("_seed")[0]
        return (order.index(line) if line in order else -1, name)

    return sorted((path.stem for path in RESULTS.glob("*.json")), key=place)


def table(found: dict[str, dict[str, Measured]]) -> str:
    """The study's table, as Markdown."""
    lines = [
        "| run | SRCC inside | SRCC outside | std of answers | std predicts the error | min |",
        "|---|---|---|---|---|---|",
    ]
    for name, sets in found.items():
        record = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        cells = ["-", "-"]
        for number, label in enumerate(SETS):
            if label in sets:
                value, low, high = sets[label].srcc
                cells[number] = f"{value:.3f} [{low:.3f}, {high:.3f}]"
        inside = sets.get("inside")
        deviations = [inside.std, inside.std_predicts] if inside else [float("nan")] * 2
        cells += ["-" if value != value else f"{value:.2f}" for value in deviations]
        cells.append(f"{record['seconds'] / 60:.0f}" if "seconds" in record else "-")
        lines.append(f"| {name} | {' | '.join(cells)} |")
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
    found = {
        name: {
            label: measured(RESULTS / f"{name}_{label}.csv")
            for label in SETS
            if (RESULTS / f"{name}_{label}.csv").is_file()
        }
        for name in names()
    }
    if not found:
        sys.exit(f"{RESULTS}: no finished run; python experiments/real_vlm/study.py --data DIR")
    text = table(found)
    (HERE / "table.md").write_text(text, encoding="utf-8")
    figure(found, HERE / "srcc.png")
    tables = sorted(RESULTS.glob("*_inside_reasoning.csv"))
    if tables:
        lines = [line for path in tables for line in words(path)]
        (HERE / "words.md").write_text("\n".join(lines), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
