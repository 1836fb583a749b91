"""The two plots of docs/performance.md, from the metrics that `bench_step.py --json` writes.

Run: `python scripts/plot_bench.py bench.json docs/images` (`--unit cpu` for processor time).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vqr1.errors import ConfigError
from vqr1.outputs import check_file, own_png, png_metadata


def measured(result: dict[str, Any] | None) -> bool:
    """Whether a contestant has a result."""
    return result is not None and "median" in result


def plot_group_sizes(report: dict[str, Any], unit: str, path: Path) -> None:
    """Cost of one step against K, relative to the smallest K."""
    sweep = {int(k): v["median"][unit] for k, v in report["sweep"]["group"].items() if measured(v)}
    groups = sorted(sweep)
    figure = Figure(figsize=(4.6, 3.2), layout="tight")
    axes = figure.subplots()
    axes.plot(groups, [sweep[k] / sweep[groups[0]] for k in groups], "o-", label="this project")
    axes.plot(groups, [k / groups[0] for k in groups], "--", color="grey", label="K times the work")
    axes.set_xlabel("K, responses per image")
    axes.set_ylabel(f"cost of a step (K={groups[0]} is 1)")
    axes.set_xticks(groups)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110, metadata=png_metadata("plot_bench"))


def plot_prompt_lengths(report: dict[str, Any], unit: str, path: Path) -> None:
    """Cost of one step against the prompt's length, both sides; B, K and C stay the same."""
    figure = Figure(figsize=(4.6, 3.2), layout="tight")
    axes = figure.subplots()
    rows = report["sweep"]["prompt"].values()
    rows = [row for row in rows if measured(row.get("trl")) and measured(row.get("ours"))]
    for side, label in {"trl": "TRL 1.16", "ours": "this project"}.items():
        points = [(row["ours"]["prompt_tokens"], row[side]["median"][unit]) for row in rows]
        axes.plot(*zip(*sorted(points), strict=True), "o-", label=label)
    axes.set_xlabel("prompt tokens (image included)")
    axes.set_ylabel(f"{'processor ' if unit == 'cpu' else ''}seconds a step")
    axes.set_yscale("log")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110, metadata=png_metadata("plot_bench"))


def main() -> None:
    """Draws both plots."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--unit", choices=["total", "cpu"], default="total")
    options = parser.parse_args()
    report = json.loads(options.report.read_text(encoding="utf-8"))
    groups = options.folder / "cost_against_group_size.png"
    prompts = options.folder / "cost_against_prompt_length.png"
    try:
        for path in (groups, prompts):
            check_file(path, "folder", own_png("plot_bench"))
    except ConfigError as error:
        sys.exit(f"error: {error}")
    options.folder.mkdir(parents=True, exist_ok=True)
    plot_group_sizes(report, options.unit, groups)
    plot_prompt_lengths(report, options.unit, prompts)


if __name__ == "__main__":
    main()
