"""Tables and plots of the three studies, from the committed predictions and metrics alone.

    python experiments/method_comparison/analyse.py     # rewrites tables.md and *.png of each study

For a run, SRCC is over the test images that every run of its study scored. For a setting it is the
mean over seeds; intervals, and those of paired differences to the first setting, are over images
and seeds (`vqr1.sweeps.leaderboard.over_seeds`: both are drawn again). The test of a difference d,
with d_s that of seed s of S, on n images:

    t = d / sqrt(a + b),  a: variance of d over draws of the images alone,  b: Var(d_s) / S
    df = (a + b)^2 / (a^2 / (n - 1) + b^2 / (S - 1))        (Satterthwaite)

so that a difference of which three seeds are unsure needs a large t. One seed has a alone: what
chance of images does, not of seeds. Holm's correction is over the differences of one table.

Not here: running anything (`sweep.py`).
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

HERE = Path(__file__).resolve().parent
EXPERIMENTS = HERE.parent
sys.path.insert(0, str(HERE))
from arms import ARMS, BASELINE, GROUP_ARMS, GROUPS, METHOD_ARMS, METHODS, REWARD_ARMS, REWARDS  # noqa: E402

from vqr1.evaluation.metrics import Measured, measure  # noqa: E402
from vqr1.evaluation.plots import forest_plot  # noqa: E402
from vqr1.evaluation.report import number, with_interval  # noqa: E402
from vqr1.evaluation.tables import Table, to_markdown  # noqa: E402
from vqr1.iqa.bootstrap import bootstrap_draws  # noqa: E402
from vqr1.iqa.comparison import difference_letters, holm  # noqa: E402
from vqr1.iqa.correlation import (  # noqa: E402
    FloatArray,
    MetricValue,
    plcc_value,
    srcc,
    srcc_value,
)
from vqr1.sweeps.leaderboard import over_seeds  # noqa: E402

DRAWS, SEED, LEVEL = 2000, 0, 0.95
LEAST_SCORED = 0.9
"""Share of the test images that a run has to score; others stand apart."""


@dataclass(frozen=True)
class Run:
    """One run's test.

    Attributes:
        seed: of the run.
        scores: by image, NaN where it has none.
        mos: by image.
        values: its metrics file.
    """

    seed: int
    scores: Mapping[str, float]
    mos: Mapping[str, float]
    values: Mapping[str, Any]

    @property
    def scored(self) -> float:
        """Share of the images with a score."""
        return float(np.mean([math.isfinite(s) for s in self.scores.values()]))


@dataclass(frozen=True)
class Setting:
    """The runs of one arm on one set.

    Attributes:
        name: in tables.
        runs: by seed, in order.
    """

    name: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Row:
    """One setting's results.

    Attributes:
        setting: the setting.
        srcc: mean over seeds.
        plcc: likewise.
        by_seed: SRCC of each run.
        drawn: [S, D] SRCC of each run on drawn images.
        against: difference to the first setting, the same draws; None for the first.
        p: of that difference.
    """

    setting: Setting
    srcc: Measured
    plcc: float
    by_seed: tuple[float, ...]
    drawn: FloatArray
    against: Measured | None
    p: float


def read_run(file: Path) -> Run:
    """A run's metrics file and the predictions beside it."""
    values = json.loads(file.read_text(encoding="utf-8"))
    with file.with_suffix(".csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    scores = {row["image"]: float(row["score"] or "nan") for row in rows}
    mos = {row["image"]: float(row["mos"]) for row in rows}
    return Run(int(values.get("seed", 0)), scores, mos, values)


def read_setting(arm: str, dataset: str, shown: str | None = None) -> Setting | None:
    """What is there of an arm; None where nothing is."""
    folder = EXPERIMENTS / ARMS[arm].experiment / "results" / dataset
    runs = sorted((read_run(f) for f in folder.glob(f"{arm}_seed?.json")), key=lambda r: r.seed)
    return Setting(shown or arm, tuple(runs)) if runs else None


def compared(settings: Sequence[Setting]) -> tuple[list[Row], int]:
    """Each setting against the first over the images that all runs scored, and their number."""
    runs = [run for setting in settings for run in setting.runs]
    common = [
        i for i in runs[0].scores if all(math.isfinite(r.scores.get(i, math.nan)) for r in runs)
    ]
    mos = np.array([runs[0].mos[i] for i in common])
    rows: list[Row] = []
    for setting in settings:
        scores = [np.array([run.scores[i] for i in common]) for run in setting.runs]
        drawn = np.array([bootstrap_draws(srcc, s, mos, draws=DRAWS, seed=SEED) for s in scores])
        values = tuple(srcc_value(s, mos).value for s in scores)
        plcc = float(np.mean([plcc_value(s, mos).value for s in scores]))
        row = Row(
            setting, _measured(values, drawn, len(common)), plcc, values, drawn, None, math.nan
        )
        if rows:
            gains = tuple(a - b for a, b in zip(values, rows[0].by_seed, strict=True))
            against = _measured(gains, drawn - rows[0].drawn, len(common))
            row = replace(row, against=against, p=p_value(row, rows[0], len(common)))
        rows.append(row)
    return rows, len(common)


def _measured(values: Sequence[float], drawn: FloatArray, images: int) -> Measured:
    draws = over_seeds(drawn, SEED)
    return measure(MetricValue(float(np.mean(values))), draws, images, LEVEL)


def p_value(first: Row, second: Row, images: int) -> float:
    """Two-sided p of a difference under none; see the module's header."""
    gains = np.subtract(first.by_seed, second.by_seed)
    a = float(np.nanvar((first.drawn - second.drawn).mean(axis=0), ddof=1))
    count = len(gains)
    b = float(np.var(gains, ddof=1)) / count if count > 1 else 0.0
    df = (a + b) ** 2 / (a**2 / (images - 1) + (b**2 / (count - 1) if count > 1 else 0.0))
    return float(2 * stats.t.sf(abs(float(gains.mean())) / math.sqrt(a + b), df))


def letters(rows: Sequence[Row], images: int) -> dict[str, str]:
    """By setting, letters: two settings that share one do not differ (all pairs, Holm)."""
    ranked = sorted(rows, key=lambda row: -row.srcc.value)
    pairs = list(combinations(range(len(ranked)), 2))
    found = [p_value(ranked[a], ranked[b], images) for a, b in pairs]
    different = np.zeros((len(ranked), len(ranked)), dtype=np.bool_)
    for (a, b), adjusted in zip(pairs, holm(found), strict=True):
        different[a, b] = different[b, a] = adjusted < 1 - LEVEL
    return {
        row.setting.name: marks
        for row, marks in zip(ranked, difference_letters(different), strict=True)
    }


def result_table(title: str, rows: Sequence[Row], images: int, name: str) -> Table:
    """SRCC and differences of a study on one set, best first."""
    adjusted = dict(
        zip([r.setting.name for r in rows[1:]], holm([r.p for r in rows[1:]]), strict=True)
    )
    # Two seeds hardly know how much seeds differ: letters of all pairs would contradict each other.
    several = len(rows[0].by_seed) != 2
    marks = letters(rows, images) if several else {row.setting.name: "" for row in rows}
    cells = []
    for row in sorted(rows, key=lambda r: -r.srcc.value):
        own = row.setting.name
        std = float(np.std(row.by_seed, ddof=1)) if len(row.by_seed) > 1 else math.nan
        cells.append(
            (
                own,
                with_interval(row.srcc),
                " ".join(number(v) for v in row.by_seed),
                "" if math.isnan(std) else number(std),
                number(row.plcc),
                "" if row.against is None else with_interval(row.against),
                "" if row.against is None else f"{adjusted[own]:.3f}",
                marks[own],
            )
        )
    heads = (
        "", "SRCC", "by seed", "std", "PLCC", f"against {rows[0].setting.name}", "p (Holm)",
        "group",
    )  # fmt: skip
    return Table(f"{title}: {images} test images scored by all runs", heads, tuple(cells), name)


def plan_table(settings: Sequence[Setting]) -> Table:
    """What the runs took."""
    cells = []
    for setting in settings:
        first = setting.runs[0].values
        cpu = np.mean([run.values["cpu_seconds"] for run in setting.runs])
        rounds = "" if first["rounds"] == 1 else f"{first['rounds']} x "
        cells.append(
            (
                setting.name,
                f"{rounds}{first['steps']}",
                str(first["batch"]),
                str(first["group"]),
                str(first["prompt"]),
                f"{first['response']:.0f}",
                f"{first['per_step'] / 1e9:.1f}",
                f"{first['before'] / 1e9:.0f}" if first["before"] else "",
                f"{first['operations'] / 1e12:.2f}",
                f"{cpu:.0f}",
            )
        )
    heads = (
        "", "steps", "B", "K", "prompt", "response", "GFLOP a step", "before", "TFLOP", "CPU s",
    )  # fmt: skip
    return Table("Equal compute", heads, tuple(cells), "plan")


def seed_plot(rows: Sequence[Row], title: str) -> Figure:
    """Means with intervals, best on top, and each seed's value."""
    ranked = sorted(rows, key=lambda row: -row.srcc.value)
    figure = forest_plot([(row.setting.name, row.srcc) for row in ranked], "test SRCC", title)
    axes = figure.axes[0]
    for place, row in zip(range(len(ranked), 0, -1), ranked, strict=True):
        if len(row.by_seed) > 1:
            axes.plot(row.by_seed, [place] * len(row.by_seed), "|", color="#c8501e", markersize=9)
    return figure


def starts_table(dataset: str) -> Table | None:
    """What the starts do before training."""
    files = sorted((HERE / "results" / dataset).glob("start_*.json"))
    cells = []
    for file in files:
        values = json.loads(file.read_text(encoding="utf-8"))
        cells.append(
            (
                file.stem.removeprefix("start_"),
                number(values["srcc"]),
                f"{values['valid_rate']:.2f}",
                f"{values['format_compliance_rate']:.2f}",
                f"{values['tokens']:.0f}",
            )
        )
    heads = ("form", "test SRCC", "valid", "format-compliant", "tokens")
    return Table(f"Starts, {dataset}", heads, tuple(cells), "starts") if cells else None


def study(folder: str, arms: Sequence[tuple[str, str]], datasets: Sequence[str]) -> None:
    """Write the tables and plots of one study.

    Args:
        folder: of the experiment.
        arms: arm and name in tables, the one that the others are compared with first.
        datasets: tables of each.
    """
    parts: list[str] = []
    for dataset in datasets:
        found = [s for arm, shown in arms if (s := read_setting(arm, dataset, shown))]
        if len(found) < 2 or found[0].name != arms[0][1]:
            continue
        for seeds in sorted({len(s.runs) for s in found}):
            # Settings with fewer seeds are compared on those seeds that all have.
            own = [Setting(s.name, s.runs[:seeds]) for s in found if len(s.runs) >= seeds]
            parts += _results(folder, dataset, own, seeds) if len(own) > 1 else []
        if folder == METHODS and (starts := starts_table(dataset)):
            parts.append(to_markdown(starts))
        parts.append(to_markdown(plan_table(found)))
    if parts:
        head = f"<!-- Written by experiments/{METHODS}/analyse.py. -->\n\n"
        (EXPERIMENTS / folder / "tables.md").write_text(head + "\n".join(parts), encoding="utf-8")
        print("\n".join(parts))


def _results(folder: str, dataset: str, found: Sequence[Setting], seeds: int) -> list[str]:
    """A table and a plot of settings with as many seeds each, and who is not in them."""
    kept = [s for s in found if all(r.scored >= LEAST_SCORED for r in s.runs)]
    rows, images = compared(kept)
    words = "1 seed" if seeds == 1 else f"{seeds} seeds"
    title = f"{folder}, {dataset}, {words}"
    figure = seed_plot(rows, f"{dataset}, {words}, {images} images; bars: each seed")
    figure.savefig(EXPERIMENTS / folder / f"srcc_{dataset}_{seeds}.png", dpi=110)
    apart = [
        f"Apart: {s.name} scored {min(r.scored for r in s.runs):.0%} of the images in its worst "
        f"run (SRCC of those: {', '.join(number(r.values['srcc']) for r in s.runs)}).\n"
        for s in found
        if s not in kept
    ]
    return [to_markdown(result_table(title, rows, images, folder)), *apart]


def main() -> None:
    """All studies."""
    # A method whose run repeats another's bit for bit is no further comparison.
    methods = [(arm.name, arm.name) for arm in METHOD_ARMS if arm.same_as is None]
    study(METHODS, methods, ("demo", "biq2021"))
    rewards = [
        (BASELINE, "fidelity"),
        *((a.name, a.name.removeprefix("reward_")) for a in REWARD_ARMS),
    ]
    study(REWARDS, rewards, ("demo",))
    groups = [(BASELINE, "K = 6"), *((a.name, f"K = {a.name[6:]}") for a in GROUP_ARMS)]
    study(GROUPS, groups, ("demo",))


if __name__ == "__main__":
    main()
