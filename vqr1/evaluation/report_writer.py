"""Writing an evaluation's report into its run directory and its tracking run.

What it does: `report.md`, every table as CSV and LaTeX under `tables/`, plots under `plots/`, the
contact sheets of the worst images under `worst/`, `metrics.json`, and the metrics and files in
MLflow where that is the logger.

Not here: `summary.json` and `report.html`, which the command writes last.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vqr1.config import ReportConfig
from vqr1.durable import make_folder, replacing
from vqr1.evaluation.file_names import file_names
from vqr1.evaluation.metric_options import MetricOptions
from vqr1.evaluation.plots import mean_plot, set_plots
from vqr1.evaluation.predictions import Predictions
from vqr1.evaluation.preferences import preference_tables
from vqr1.evaluation.published_report import published_tables
from vqr1.evaluation.report import (
    Evaluation,
    calibration_tables,
    distortion_tables,
    main_table,
)
from vqr1.evaluation.report_values import json_values, metric_values
from vqr1.evaluation.tables import Table, to_csv, to_json, to_latex, to_markdown
from vqr1.evaluation.worst_sheet import shown_size, worst_images, worst_json, worst_sheet
from vqr1.report_page.files import TABLES, WORST
from vqr1.tracking import RunLog

LoadImage = Callable[[str, int], Image.Image]
"""(data set, row of its table) -> RGB image."""


def all_tables(evaluation: Evaluation, published: bool) -> list[Table]:
    """Every table of the report, the main one with all intervals."""
    return [
        main_table(evaluation, detailed=True),
        *preference_tables(evaluation),
        *(published_tables(evaluation) if published else []),
        *distortion_tables(evaluation),
        *calibration_tables(evaluation),
    ]


def write_tables(tables: Sequence[Table], title: str, run_log: RunLog) -> Path:
    """Write `report.md` and each table as CSV, LaTeX and JSON; returns the report's path."""
    run_log.text(TABLES, to_json(tables))
    files = file_names(table.name for table in tables)
    for table in tables:
        run_log.text(f"tables/{files[table.name]}.csv", to_csv(table))
        run_log.text(f"tables/{files[table.name]}.tex", to_latex(table))
    body = "\n".join(to_markdown(table) for table in tables)
    return run_log.text("report.md", f"# {title}\n\n{body}")


def write_values(values: Mapping[str, Any], run_log: RunLog) -> Path:
    """Write `metrics.json`; values hold None where a metric does not exist."""
    return run_log.text("metrics.json", json.dumps(values, indent=2, allow_nan=False) + "\n")


def write_outcome(
    evaluation: Evaluation,
    predictions: Predictions,
    report: ReportConfig,
    run_log: RunLog,
    load_image: LoadImage | None,
    further: Sequence[Table] = (),
) -> None:
    """Write everything that an evaluation shows.

    Args:
        evaluation: its metrics.
        predictions: its rows.
        report: what is wanted.
        run_log: where it goes.
        load_image: finds the images; None where there are none (predictions from a file).
        further: tables after the main one.
    """
    main, *others = all_tables(evaluation, report.published)
    write_tables([main, *further, *others], "Evaluation", run_log)
    write_values(json_values(evaluation), run_log)
    run_log.metrics(metric_values(evaluation))
    parts = predictions.by_dataset()
    if report.plots:
        _write_plots(evaluation, parts, run_log)
    if report.worst and load_image is not None:
        _write_worst(evaluation, parts, report.worst, run_log, load_image)


def _write_plots(evaluation: Evaluation, parts: Mapping[str, Predictions], run_log: RunLog) -> None:
    files = file_names(parts)
    for metrics in evaluation.sets:
        # Without a correlation there is nothing to see but a line.
        if metrics.srcc.reason is None:
            plot = set_plots(
                parts[metrics.dataset], metrics, evaluation.options, evaluation.caption
            )
            run_log.plot(f"plots/{files[metrics.dataset]}", plot)
    drawn = [metrics for metrics in evaluation.sets if metrics.srcc.reason is None]
    if len(drawn) > 1:
        run_log.plot("plots/srcc_by_set", mean_plot(drawn, evaluation.caption))


def _write_worst(
    evaluation: Evaluation,
    parts: Mapping[str, Predictions],
    count: int,
    run_log: RunLog,
    load_image: LoadImage,
) -> None:
    options: MetricOptions = evaluation.options
    files = file_names(parts)
    for metrics in evaluation.sets:
        fit = metrics.fits[options.curves[0]].fit if options.curves else None
        if fit is None or fit.reason:
            continue
        dataset = metrics.dataset
        worst = worst_images(parts[dataset], fit, count, options.rule)

        @functools.cache
        def load(row: int, name: str = dataset) -> Image.Image:
            return shown_size(load_image(name, row))

        title = f"{dataset}: the {min(count, metrics.scored)} images scored worst"
        sheet = worst_sheet(worst, title, evaluation.caption, load)
        keep_image(run_log, f"{WORST}/{files[dataset]}.png", sheet)
        run_log.text(worst_name(files[dataset]), worst_json(worst, dataset, load))


def worst_name(file: str) -> str:
    """Path of the file that holds a set's worst images for the report's page.

    Args:
        file: of the set, of `file_names`.
    """
    return f"{WORST}/{file}.json"


def keep_image(run_log: RunLog, name: str, image: Image.Image) -> None:
    """Write an image into the run directory, and to MLflow where that is the logger."""
    path = run_log.run_dir / name
    make_folder(path.parent)
    with replacing(path) as aside:
        image.save(aside, format="PNG")
    run_log.keep(name)
