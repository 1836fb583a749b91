"""Validation curves and a results table of all runs of one MLflow experiment.

    python scripts/plot_curves.py demo_learning --output experiments/demo_learning

Runs are grouped by the names of their reward terms and data sets; a group's curve is the mean over
its seeds, with the range between its lowest and highest seed shaded. Runs that did not finish are
excluded and counted.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Run

from vqr1.errors import ConfigError
from vqr1.outputs import check_file, own_png, png_metadata
from vqr1.tracking.store import default_tracking_uri


@dataclass(frozen=True)
class Curve:
    """One run.

    Attributes:
        label: what was varied.
        seed: the run's seed.
        steps: optimiser steps of the validations.
        values: the metric at those steps.
        metrics: the run's last metrics.
    """

    label: str
    seed: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    metrics: dict[str, float]


def read_runs(client: MlflowClient, experiment: str, metric: str) -> tuple[list[Curve], int]:
    """Finished runs of an experiment, and how many others it holds."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        sys.exit(f"error: experiment {experiment!r} does not exist in this MLflow store")
    runs = client.search_runs([found.experiment_id], order_by=["attributes.start_time"])
    finished = [run for run in runs if run.info.status == "FINISHED"]
    return [_curve(client, run, metric) for run in finished], len(runs) - len(finished)


def _curve(client: MlflowClient, run: Run, metric: str) -> Curve:
    history = {m.step: m.value for m in client.get_metric_history(run.info.run_id, metric)}
    label, _, seed = str(run.info.run_name).rpartition("/")
    steps = tuple(sorted(history))
    return Curve(label, seed, steps, tuple(history[s] for s in steps), dict(run.data.metrics))


def groups(curves: list[Curve]) -> dict[str, list[Curve]]:
    """Runs that differ in their seed only."""
    names = dict.fromkeys(curve.label for curve in curves)
    return {name: [curve for curve in curves if curve.label == name] for name in names}


def draw(curves: list[Curve], metric: str) -> Figure:
    """Mean and range over seeds of every group."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.subplots()
    for name, members in groups(curves).items():
        common = sorted(set.intersection(*(set(c.steps) for c in members)))
        values = np.array([[c.values[c.steps.index(s)] for s in common] for c in members])
        seeds = f" ({len(members)} seeds)" if len(members) > 1 else ""
        line = axis.plot(common, values.mean(axis=0), marker=".", label=name + seeds)[0]
        if len(members) > 1:
            axis.fill_between(
                common, values.min(axis=0), values.max(axis=0), alpha=0.2, color=line.get_color()
            )
    axis.axhline(0, color="grey", linewidth=0.8)
    axis.set_xlabel("optimiser steps")
    axis.set_ylabel(metric)
    axis.legend(fontsize=8)
    return figure


def table(curves: list[Curve]) -> str:
    """Markdown table of the test metrics, a row for each run."""
    rows = ["| run | seed | test SRCC before | best step | last step | test PLCC, best step |"]
    rows.append("|---|---|---|---|---|---|")
    keys = ("test/srcc_before", "test/srcc_after", "test/srcc_last", "test/plcc_after")
    for curve in curves:
        cells = [f"{curve.metrics[key]:.3f}" if key in curve.metrics else "-" for key in keys]
        rows.append(f"| {curve.label} | {curve.seed} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Curves and table of an MLflow experiment.")
    parser.add_argument("experiment", help="name of the MLflow experiment")
    parser.add_argument("--output", type=Path, required=True, help="folder for curves.png")
    parser.add_argument("--metric", default="val/srcc")
    parser.add_argument("--tracking-uri", default=default_tracking_uri())
    options = parser.parse_args()
    target = options.output / "curves.png"
    try:
        check_file(target, "--output", own_png("plot_curves"))
    except ConfigError as error:
        sys.exit(f"error: {error}")
    client = MlflowClient(options.tracking_uri)
    curves, unfinished = read_runs(client, options.experiment, options.metric)
    if not curves:
        sys.exit(f"error: experiment {options.experiment!r} has no finished run")
    options.output.mkdir(parents=True, exist_ok=True)
    draw(curves, options.metric).savefig(target, dpi=110, metadata=png_metadata("plot_curves"))
    print(table(curves))
    print(f"{len(curves)} runs; {unfinished} unfinished runs excluded")
    print(target)


if __name__ == "__main__":
    main()
