"""The test metrics of a training run, before and after it, and which weights it exported."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vqr1.evaluation.metrics import HEADLINE, METRICS, Metric, monitored, watched
from vqr1.evaluation.predictions import Predictions
from vqr1.evaluation.summary import Gain, Summary, paired_gain, summarise
from vqr1.evaluation.trained_on import TrainedOn


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
        return self.metrics.get(f"val/{HEADLINE}")

    def count(self, name: str) -> int | None:
        """A count that the validation logged."""
        value = self.metrics.get(f"val/{name}")
        return None if value is None else int(value)


@dataclass(frozen=True)
class TestResult:
    """Test metrics before and after a training run.

    Attributes:
        before: predictions of the policy as loaded; None without a test.
        after: predictions of the exported policy (best by validation, else of the last step).
        summary_before: metrics of `before`.
        summary_after: metrics of `after`.
        summary_last: metrics of the policy after the last step.
        summary_average: metrics of the average of the weights; None without one.
        gains: SRCC gain from `before` to `after` by data set, with its paired interval.
        exported: which weights were exported.
        checkpoint: exported folder.
        trained_on: by set, how many of the test images are training images too.
        watched: the metrics that validations logged.
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
    watched: tuple[Metric, ...] = tuple(watched())

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
        metrics: Sequence[Metric] = METRICS,
    ) -> TestResult:
        """Summarise predictions; bootstraps draw as `bootstrap_clusters` states."""
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
            None if before is None else summarise(before, draws=draws, metrics=metrics),
            None if after is None else summarise(after, draws=draws, metrics=metrics),
            None if last is None else summarise(last, draws=draws, metrics=metrics),
            None if average is None else summarise(average, draws=draws, metrics=metrics),
            gains,
            exported,
            checkpoint,
            watched=tuple(watched(metrics)),
        )

    @property
    def headline(self) -> float:
        """Test SRCC after training; validation SRCC where nothing was tested; NaN without both."""
        if self.summary_after is not None:
            return self.summary_after.srcc
        return float("nan") if self.exported.val_srcc is None else self.exported.val_srcc

    def metrics(self) -> dict[str, float]:
        """Metrics for the log; undefined ones are excluded."""
        values = {
            f"test/{name}_{when}": found.value
            for when, summary in self.summaries().items()
            for name, found in summary.metrics.items()
        }
        values |= {
            f"test/invalid_rate_{when}": summary.invalid_rate
            for when, summary in self.summaries().items()
        }
        values |= {
            f"test/unscored_images_{when}": float(summary.n - summary.n_scored)
            for when, summary in self.summaries().items()
        }
        chosen = self.exported.metrics
        names = monitored(self.watched)
        values |= {f"{name}_best": chosen[name] for name in names if name in chosen}
        return {name: value for name, value in values.items() if math.isfinite(value)}

    def summaries(self) -> dict[str, Summary]:
        """The test summaries that exist, by when they were taken."""
        taken = {
            "before": self.summary_before,
            "after": self.summary_after,
            "last": self.summary_last,
            "average": self.summary_average,
        }
        return {when: summary for when, summary in taken.items() if summary is not None}
