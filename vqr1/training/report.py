"""What a training run reports at its end: metrics before and after, and where everything is.

To the log (`log_*`), to `summary.json` (`summary_values`), to the terminal (`print_report`), and to
the page `report.html` (`write_results`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vqr1.counted import counted
from vqr1.evaluation import tables
from vqr1.evaluation.file_names import file_names
from vqr1.evaluation.metrics import HEADLINE, Measured, Metric, headline
from vqr1.evaluation.prediction_file import keep_predictions
from vqr1.evaluation.predictions import Predictions
from vqr1.evaluation.report_writer import LoadImage, worst_name
from vqr1.evaluation.summary import Gain, Summary, scored_rows
from vqr1.evaluation.worst_sheet import worst_images, worst_json
from vqr1.inference.tested_scores import tested_scores, write_tested_scores
from vqr1.iqa.logistic import fit_logistic
from vqr1.program import in_shell
from vqr1.report_page.files import TABLES
from vqr1.report_page.write import add_report
from vqr1.tracking import RunLog
from vqr1.training.callbacks.answers import answer_table
from vqr1.training.callbacks.scatter import scatter_plot
from vqr1.training.result import ExportedStep, TestResult

logger = logging.getLogger(__name__)


WORST = 12
"""Images scored worst after training that the report shows, of each set."""


def log_result(
    run_log: RunLog, result: TestResult, skipped: Mapping[str, int], step: int, load: LoadImage
) -> None:
    """Log the metrics, plots and answers of the test, and skipped images.

    Args:
        run_log: of the run.
        result: of the run.
        skipped: by set, images that could not be read and were skipped.
        step: the last one.
        load: finds the test images.
    """
    run_log.metrics(result.metrics(), step)
    run_log.tags({"vqr1.checkpoint": str(result.checkpoint)})
    for name, predictions in (("before", result.before), ("after", result.after)):
        if predictions is not None:
            run_log.plot(
                f"scatter/test_{name}", scatter_plot(predictions, f"test, {name} training")
            )
            run_log.table(f"answers/test_{name}", answer_table(predictions, 20))
            keep_predictions(predictions, run_log, f"test_{name}")
    if result.after is not None:
        _log_worst(run_log, result.after, load)
    _log_skipped(run_log, skipped, step)


def _log_worst(run_log: RunLog, predictions: Predictions, load: LoadImage) -> None:
    parts = predictions.by_dataset()
    files = file_names(parts)
    for name, part in parts.items():
        scored, scores = scored_rows(part, "valid_mean")
        fit = fit_logistic(scores, scored.mos, "logistic4")
        if not fit.reason:
            worst = worst_images(part, fit, WORST)
            run_log.text(worst_name(files[name]), worst_json(worst, name, partial(load, name)))


def write_results(prompt: str, result: TestResult, seconds: float, run_log: RunLog) -> None:
    """Write `summary.json`, the table of the test, the page that shows them, and the test's scores.

    Args:
        prompt: name of the prompt of the test.
        result: of the run.
        seconds: that the run took.
        run_log: of the run.
    """
    if result.after is not None and result.summary_after is not None:
        after = result.after
        tested = tested_scores(
            after.image_scores(), list(after.by_dataset()), prompt, after.samples,
            result.summary_after.srcc,
        )  # fmt: skip
        if tested is not None:
            write_tested_scores(tested, result.checkpoint)
    if result.summary_before is not None:
        run_log.text(TABLES, tables.to_json([_metrics_record(result)]))
    run_log.summary(summary_values(result, seconds, run_log))
    add_report(run_log.run_dir, run_log.keep)


def _log_skipped(run_log: RunLog, counts: Mapping[str, int], step: int) -> None:
    skipped = {name: count for name, count in counts.items() if count}
    run_log.metrics({f"data/skipped/{name}": float(count) for name, count in skipped.items()}, step)
    for name, count in skipped.items():
        logger.warning("%s: %d images were excluded (dataset.on_bad_image=skip)", name, count)


def summary_values(result: TestResult, seconds: float, run_log: RunLog) -> dict[str, Any]:
    """Contents of a training run's `summary.json`."""
    gain = next(iter(result.gains.values())) if len(result.gains) == 1 else None
    values: dict[str, Any] = {
        **{
            f"test_{metric.name}_{when}": _number(summary, metric.name)
            for metric in result.watched
            for when, summary in (
                ("before", result.summary_before),
                ("after", result.summary_after),
            )
        },
        f"test_{HEADLINE}_last": _number(result.summary_last, HEADLINE),
        f"test_{HEADLINE}_gain_interval": (
            [_finite(gain.interval.low), _finite(gain.interval.high)] if gain else None
        ),
        **(
            {}
            if result.summary_average is None
            else {f"test_{HEADLINE}_average": _number(result.summary_average, HEADLINE)}
        ),
        "test_trained_on": {name: seen.values() for name, seen in result.trained_on.items()},
        "test_images": None if result.summary_after is None else result.summary_after.n,
        "test_unscored_before": _unscored(result.summary_before),
        "test_unscored_after": _unscored(result.summary_after),
        f"val_{HEADLINE}_best": result.exported.val_srcc,
        "val_images": result.exported.count("images"),
        "val_unscored_best": result.exported.count("unscored_images"),
        "exported_step": (
            result.exported.last if result.exported.best is None else result.exported.best
        ),
        "exported_by": "last step" if result.exported.best is None else "validation",
        "seconds": round(seconds, 1),
        "mlflow_run_id": run_log.mlflow_run_id,
        "checkpoint": str(result.checkpoint),
    }
    if len(result.gains) > 1:
        values["test_by_dataset"] = {
            name: {
                f"{HEADLINE}_before": _finite(gain.before),
                f"{HEADLINE}_after": _finite(gain.after),
                f"{HEADLINE}_gain_interval": [
                    _finite(gain.interval.low),
                    _finite(gain.interval.high),
                ],
                "images": gain.n,
                "excluded": gain.excluded,
            }
            for name, gain in result.gains.items()
        }
    return values


def opening_page(uri: str) -> str:
    """The command that shows a store's runs in a browser."""
    return f"mlflow ui --host 127.0.0.1 --backend-store-uri {in_shell(uri)}"


def print_report(console: Console, result: TestResult, seconds: float, run_log: RunLog) -> None:
    """Print metrics with intervals, sample answers, and where to look next."""
    if result.summary_before is not None:
        console.print(_metrics_table(result))
        for line in _gain_lines(result):
            console.print(line)
    if result.after is not None:
        console.print(_answers_table(result.after, 4))
    console.print(f"took {seconds:.0f} s; exported checkpoint: {result.checkpoint}", markup=False)
    if run_log.mlflow_run_id is not None:
        uri = run_log.tracking_uri
        console.print(f"MLflow run {run_log.mlflow_run_id}; open its page with:")
        console.print(f"  {opening_page(str(uri))}", markup=False, highlight=False)
    console.print(str(run_log.run_dir), markup=False, highlight=False)


def _gain_lines(result: TestResult) -> list[str]:
    return [
        f"{name}: {headline().label} gain {gain.gain:+.3f}, 95 % interval "
        f"[{gain.interval.low:+.3f}, {gain.interval.high:+.3f}] (paired bootstrap over "
        f"{_gain_base(gain)})"
        for name, gain in result.gains.items()
    ]


def _gain_base(gain: Gain) -> str:
    """What a gain is over: images, and draws where some have no SRCC."""
    words = f"{counted(gain.n, 'image')}"
    if gain.excluded:
        total = gain.n + gain.excluded
        words = (
            f"{gain.n} of {counted(total, 'image')}, {gain.excluded} without a score before or "
            "after training"
        )
    lost = gain.interval.lost
    return (
        f"{words}; {lost} of {gain.interval.draws} draws without an {headline().label}"
        if lost
        else words
    )


def row_names(exported: ExportedStep) -> dict[str, str]:
    """Names of the rows of the final table; the exported weights stand in one row."""
    names = {"before": "before", "average": "average of the weights"}
    if exported.best is None:
        return names | {"after": "after, last step (exported)"}
    if exported.best == exported.last:
        return names | {"after": "after, best and last step (exported)"}
    return names | {"after": "after, best step (exported)", "last": "after, last step"}


def _metrics_table(result: TestResult) -> Table:
    """The table in print; the gains have lines of their own."""
    record = _metrics_record(result)
    table = Table(*record.columns, title=record.title)
    for row in record.rows:
        table.add_row(*row)
    notes = record.notes[: len(record.notes) - len(result.gains)]
    if notes:
        table.caption = Text("\n".join(notes))
        table.caption_justify = "left"
    return table


def _metrics_record(result: TestResult) -> tables.Table:
    """The metrics of the test images before and after, with notes and the gains."""
    trained = sum(seen.trained for seen in result.trained_on.values())
    what = f"{trained} of them trained on" if trained else "never trained on"
    rows = []
    names = row_names(result.exported)
    notes = [
        f"{name}: {text}" for name, seen in result.trained_on.items() for text in seen.sentences()
    ]
    for when, summary in result.summaries().items():
        if when not in names:
            continue
        rows.append(
            (
                names[when],
                *(_with_interval(summary.metrics[metric.name]) for metric in result.watched),
                f"{summary.n - summary.n_scored} of {summary.n}",
            )
        )
        notes += [f"{names[when]}: {text}" for text in _missing(summary, result.watched)]
    return tables.Table(
        f"test images ({what}), 95 % bootstrap intervals",
        ("policy", *(metric.label for metric in result.watched), "no score"),
        tuple(rows),
        "test",
        (*notes, *_gain_lines(result)),
    )


def _with_interval(measured: Measured) -> str:
    interval = measured.interval
    return f"{measured.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _missing(summary: Summary, metrics: Sequence[Metric]) -> list[str]:
    """Why a metric or its interval is NaN, and from how many draws an interval is."""
    found = []
    for metric in metrics:
        label, measured = metric.label, summary.metrics[metric.name]
        interval = measured.interval
        if measured.reason:
            found.append(f"no {label}: {measured.reason}")
        elif interval.reason:
            found.append(f"no interval of {label}: {interval.reason}")
        elif interval.lost:
            found.append(
                f"{label}: {interval.lost} of {interval.draws} bootstrap draws have none "
                "and are excluded from its interval"
            )
    return found


def _answers_table(predictions: Predictions, count: int) -> Table:
    table = Table(title="sample answers after training")
    table.add_column("image")
    table.add_column("MOS")
    table.add_column("response", overflow="fold")
    for row in answer_table(predictions, count).itertuples():
        # Students and words of levels score without a text.
        stated = str(row.response) or f"{row.score:.2f}, without a text"
        # Text, because an answer may hold what rich takes for markup.
        table.add_row(Text(str(row.image)), f"{row.mos:.2f}", Text(stated))
    return table


def _number(summary: Summary | None, metric: str) -> float | None:
    return None if summary is None else _finite(summary.metrics[metric].value)


def _unscored(summary: Summary | None) -> int | None:
    return None if summary is None else summary.n - summary.n_scored


def _finite(value: float) -> float | None:
    """The value, or None for NaN, which JSON cannot hold."""
    return value if math.isfinite(value) else None
