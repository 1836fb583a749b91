"""What a training run reports at its end: figures before and after, and where everything is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from vqr1.data.datamodule import RankingDataModule
from vqr1.distributed.collectives import get_rank, get_world_size
from vqr1.distributed.stop_requests import Looks, StopRequests
from vqr1.evaluation.predictions import Predictions
from vqr1.evaluation.protocol import EvaluationMode, SamplingEngine, score_batch, score_batches
from vqr1.evaluation.summary import Gain, Summary, paired_gain, summarise
from vqr1.evaluation.trained_on import TrainedOn
from vqr1.tracking import RunLog
from vqr1.training.callbacks.answers import answer_table
from vqr1.training.validation import in_table_order

CHOOSING = ("val/srcc", "val/plcc", "val/srcc_greedy", "val/plcc_greedy")
"""Metrics that may choose the exported weights; each is logged for them with `_best` at its end."""


@dataclass(frozen=True)
class ExportedStep:
    """Which weights of a run were exported.

    Attributes:
        best: step that validation found best; None where no validation chose: there was none, or
            all were undefined. The last step's weights are then exported.
        last: last step of the run.
        metrics: defined validation metrics of step `best`, by logged name.
    """

    best: int | None
    last: int
    metrics: Mapping[str, float]

    @property
    def val_srcc(self) -> float | None:
        """Validation SRCC of the exported weights; None where no validation chose them."""
        return self.metrics.get("val/srcc")

    def count(self, name: str) -> int | None:
        """A count that the validation logged."""
        value = self.metrics.get(f"val/{name}")
        return None if value is None else int(value)


@dataclass(frozen=True)
class TestResult:
    """Test figures around a training run.

    Attributes:
        before: predictions of the policy as loaded; None without a test.
        after: predictions of the exported policy (best by validation, else of the last step).
        summary_before: figures of `before`.
        summary_after: figures of `after`.
        summary_last: figures of the policy after the last step.
        summary_average: figures of the average of the weights; None without one.
        gains: SRCC gain from `before` to `after` by data set, with its paired interval.
        exported: which weights were exported.
        checkpoint: exported folder.
        trained_on: by set, how many of the test images are training images too.
    """

    __test__ = False  # not a test case, whatever its name begins with

    before: Predictions | None
    after: Predictions | None
    summary_before: Summary | None
    summary_after: Summary | None
    summary_last: Summary | None
    summary_average: Summary | None
    gains: dict[str, Gain]
    exported: ExportedStep
    checkpoint: Path
    trained_on: Mapping[str, TrainedOn] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        before: Predictions | None,
        after: Predictions | None,
        last: Predictions | None,
        average: Predictions | None,
        exported: ExportedStep,
        checkpoint: Path,
        draws: int,
    ) -> TestResult:
        """Summarise predictions; images are the unit of every bootstrap."""
        gains = {}
        if before is not None and after is not None:
            sets = after.by_dataset()
            gains = {
                name: paired_gain(part, sets[name], draws=draws)
                for name, part in before.by_dataset().items()
            }
        return cls(
            before,
            after,
            None if before is None else summarise(before, draws=draws),
            None if after is None else summarise(after, draws=draws),
            None if last is None else summarise(last, draws=draws),
            None if average is None else summarise(average, draws=draws),
            gains,
            exported,
            checkpoint,
        )

    @property
    def headline(self) -> float:
        """Test SRCC after training; validation SRCC where nothing was tested; NaN without both."""
        if self.summary_after is not None:
            return self.summary_after.srcc
        return float("nan") if self.exported.val_srcc is None else self.exported.val_srcc

    def metrics(self) -> dict[str, float]:
        """Metrics for the log; undefined ones are left out."""
        figures = {
            f"test/{figure}_{when}": getattr(summary, figure)
            for when, summary in self.summaries().items()
            for figure in ("srcc", "plcc", "krcc", "invalid_rate")
        }
        figures |= {
            f"test/unscored_images_{when}": float(summary.n - summary.n_scored)
            for when, summary in self.summaries().items()
        }
        chosen = self.exported.metrics
        figures |= {f"{name}_best": chosen[name] for name in CHOOSING if name in chosen}
        return {name: value for name, value in figures.items() if math.isfinite(value)}

    def summaries(self) -> dict[str, Summary]:
        """The test summaries that exist, by when they were taken."""
        taken = {
            "before": self.summary_before,
            "after": self.summary_after,
            "last": self.summary_last,
            "average": self.summary_average,
        }
        return {when: summary for when, summary in taken.items() if summary is not None}


def judge(
    engine: SamplingEngine,
    data: RankingDataModule,
    mode: EvaluationMode,
    batch_size: int,
    when: str,
    stops: StopRequests,
) -> Predictions | None:
    """Score every test image, with a progress bar, and stop after a batch if asked.

    Processes share the images; None in all but the first.
    """
    ranks = get_world_size()
    loader = data.eval_dataloader("test", batch_size=batch_size, rank=get_rank(), world_size=ranks)
    total = sum(len(labelled.part("test")) for labelled in data.sets.values())
    looks = Looks(stops, len(loader))
    with _progress(f"test images, {when}", total) as advance:

        def scored(images: int) -> None:
            # The first process's share stands for the others'.
            advance(images * ranks)
            if looks.after_batch():
                stops.check()

        parts = list(score_batches(lambda b: score_batch(engine, b, mode), loader, scored))
    if looks.after_all():
        stops.check()
    return in_table_order(parts)


def summary_values(result: TestResult, seconds: float, run_log: RunLog) -> dict[str, Any]:
    """Contents of a training run's `summary.json`."""
    gain = next(iter(result.gains.values())) if len(result.gains) == 1 else None
    values: dict[str, Any] = {
        "test_srcc_before": _number(result.summary_before, "srcc"),
        "test_srcc_after": _number(result.summary_after, "srcc"),
        "test_srcc_last": _number(result.summary_last, "srcc"),
        "test_plcc_before": _number(result.summary_before, "plcc"),
        "test_plcc_after": _number(result.summary_after, "plcc"),
        "test_srcc_gain_interval": (
            [_finite(gain.interval.low), _finite(gain.interval.high)] if gain else None
        ),
        **(
            {}
            if result.summary_average is None
            else {"test_srcc_average": _number(result.summary_average, "srcc")}
        ),
        "test_trained_on": {name: seen.values() for name, seen in result.trained_on.items()},
        "test_images": None if result.summary_after is None else result.summary_after.n,
        "test_unscored_before": _unscored(result.summary_before),
        "test_unscored_after": _unscored(result.summary_after),
        "val_srcc_best": result.exported.val_srcc,
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
                "srcc_before": _finite(gain.before),
                "srcc_after": _finite(gain.after),
                "srcc_gain_interval": [_finite(gain.interval.low), _finite(gain.interval.high)],
                "images": gain.n,
                "left_out": gain.left_out,
            }
            for name, gain in result.gains.items()
        }
    return values


def print_report(console: Console, result: TestResult, seconds: float, run_log: RunLog) -> None:
    """Figures with intervals, sample answers, and where to look next."""
    if result.summary_before is not None:
        console.print(_figures_table(result))
        for name, gain in result.gains.items():
            console.print(
                f"{name}: SRCC gain {gain.gain:+.3f}, 95 % interval "
                f"[{gain.interval.low:+.3f}, {gain.interval.high:+.3f}] (paired bootstrap over "
                f"{_gain_base(gain)})"
            )
    if result.after is not None:
        console.print(_answers_table(result.after, 4))
    console.print(f"took {seconds:.0f} s; exported checkpoint: {result.checkpoint}", markup=False)
    if run_log.mlflow_run_id is not None:
        uri = run_log.tracking_uri
        console.print(f"MLflow run {run_log.mlflow_run_id}; open its page with:")
        console.print(
            f"  mlflow ui --host 127.0.0.1 --backend-store-uri {uri}", markup=False, highlight=False
        )
    console.print(str(run_log.run_dir), markup=False, highlight=False)


def _gain_base(gain: Gain) -> str:
    """What a gain is over: images, and draws where some have no SRCC."""
    words = f"{gain.n} images"
    if gain.left_out:
        total = gain.n + gain.left_out
        words = (
            f"{gain.n} of {total} images, {gain.left_out} without a score before or after training"
        )
    lost = gain.interval.lost
    return f"{words}; {lost} of {gain.interval.draws} draws without an SRCC" if lost else words


def row_names(exported: ExportedStep) -> dict[str, str]:
    """Names of the rows of the final table; the exported weights stand in one row."""
    names = {"before": "before", "average": "average of the weights"}
    if exported.best is None:
        return names | {"after": "after, last step (exported)"}
    if exported.best == exported.last:
        return names | {"after": "after, best and last step (exported)"}
    return names | {"after": "after, best step (exported)", "last": "after, last step"}


def _figures_table(result: TestResult) -> Table:
    trained = sum(seen.trained for seen in result.trained_on.values())
    what = f"{trained} of them trained on" if trained else "never trained on"
    table = Table(title=f"test images ({what}), 95 % bootstrap intervals")
    for column in ("policy", "SRCC", "PLCC", "no score"):
        table.add_column(column)
    names = row_names(result.exported)
    notes = [
        f"{name}: {text}" for name, seen in result.trained_on.items() for text in seen.sentences()
    ]
    for when, summary in result.summaries().items():
        if when not in names:
            continue
        srcc, plcc = summary.srcc_interval, summary.plcc_interval
        table.add_row(
            names[when],
            f"{summary.srcc:.3f} [{srcc.low:.3f}, {srcc.high:.3f}]",
            f"{summary.plcc:.3f} [{plcc.low:.3f}, {plcc.high:.3f}]",
            f"{summary.n - summary.n_scored} of {summary.n}",
        )
        notes += [f"{names[when]}: {text}" for text in _missing(summary)]
    if notes:
        table.caption = Text("\n".join(notes))
        table.caption_justify = "left"
    return table


def _missing(summary: Summary) -> list[str]:
    """Why a correlation or its interval is NaN, and from how many draws an interval is."""
    found = []
    for name in ("srcc", "plcc"):
        interval = getattr(summary, f"{name}_interval")
        if name in summary.reasons:
            found.append(f"no {name.upper()}: {summary.reasons[name]}")
        elif interval.reason:
            found.append(f"no interval of {name.upper()}: {interval.reason}")
        elif interval.lost:
            found.append(
                f"{name.upper()}: {interval.lost} of {interval.draws} bootstrap draws have none "
                "and are left out of its interval"
            )
    return found


def _answers_table(predictions: Predictions, count: int) -> Table:
    table = Table(title="sample answers after training")
    table.add_column("image")
    table.add_column("MOS")
    table.add_column("response", overflow="fold")
    for row in answer_table(predictions, count).itertuples():
        # Text, because an answer may hold what rich takes for markup.
        table.add_row(Text(str(row.image)), f"{row.mos:.2f}", Text(str(row.response)))
    return table


def _number(summary: Summary | None, figure: str) -> float | None:
    return None if summary is None else _finite(getattr(summary, figure))


def _unscored(summary: Summary | None) -> int | None:
    return None if summary is None else summary.n - summary.n_scored


def _finite(value: float) -> float | None:
    """The value, or None for NaN, which JSON cannot hold."""
    return value if math.isfinite(value) else None


@contextmanager
def _progress(label: str, total: int):  # type: ignore[no-untyped-def]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, disable=get_rank() > 0) as progress:
        task = progress.add_task(label, total=total)

        def advance(images: int) -> None:
            left = total - progress.tasks[task].completed
            progress.update(task, advance=min(images, left))

        yield advance
