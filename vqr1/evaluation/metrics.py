"""The metrics: one entry each, which validation, evaluation, reports, comparisons and sweeps read.

A metric of your own needs no change here: a function from `MetricInputs` to a number, named by
`_target_` in a YAML file of a folder `metrics/` of your own (`vqr1.config.metrics`), which
`metrics_of` puts after the entries of this file.

Not here: which images enter (`vqr1.evaluation.summary`), how an interval is read from draws
(`vqr1.iqa.bootstrap`).

Shape legend: n images with a score, D bootstrap draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vqr1.config import TrainingTarget
from vqr1.config.metrics import HEADLINE as HEADLINE
from vqr1.config.metrics import MetricConfig
from vqr1.errors import ConfigError
from vqr1.iqa.bootstrap import (
    Interval,
    Statistic,
    Units,
    bootstrap_draws,
    interval_of_draws,
    resample_counts,
)
from vqr1.iqa.correlation import (
    FloatArray,
    MetricValue,
    krcc,
    krcc_value,
    obstacle,
    plcc,
    plcc_value,
    srcc,
    srcc_value,
)
from vqr1.iqa.logistic import Curve, LogisticFit
from vqr1.iqa.preferences import StatedPairs, pair_credits

DIRECTION = "higher_is_better"
"""Key of a metric of the user's own that states which way it points."""
OWN_METRICS = "metrics."
"""Beginning of the keys of metrics of the user's own."""


@dataclass(frozen=True)
class MetricInputs:
    """What a metric is computed from: the scored images of one data set.

    Attributes:
        scores: [n] float64 predicted scores, finite, higher is better.
        mos: [n] float64 MOS, finite, higher is better.
        mos_std: [n] float64 standard deviation of the single ratings on the scale of `mos`; NaN
            where the set has none.
        pairs: stated preferences between the n images; None where they are not evaluated.
    """

    scores: FloatArray
    mos: FloatArray
    mos_std: FloatArray
    pairs: StatedPairs | None = None

    @classmethod
    def of(cls, scores: FloatArray, mos: FloatArray, std: FloatArray | None = None) -> MetricInputs:
        """Inputs of which the standard deviations may be unknown."""
        return cls(scores, mos, np.full(len(mos), np.nan) if std is None else std)


@dataclass(frozen=True)
class Measured:
    """A metric with its interval.

    Attributes:
        value: the metric; NaN where it does not exist.
        interval: its confidence interval; NaN with a reason where there is none.
        reason: why the metric does not exist; None where it does.
    """

    value: float
    interval: Interval
    reason: str | None = None


@dataclass(frozen=True)
class Metric:
    """One entry.

    Attributes:
        name: in logs and files.
        label: in tables.
        compute: the metric of scores [n] and MOS [n], or the reason why there is none.
        statistic: the same as a number alone, as the bootstrap calls it.
        higher_is_better: direction: which of two checkpoints, trials or settings is the better one.
        averageable: a mean over data sets means something: not so in units of the sets' MOS.
        watched: logged by each validation of a training, and choosable as
            `callbacks.checkpoint.monitor`.
        by_group: also computed within each reference and each distortion.
        interval: has a bootstrap interval.
        observed: the metric where it looks at standard deviations of the MOS too; None: `compute`.
    """

    name: str
    label: str
    compute: Callable[[FloatArray, FloatArray], MetricValue]
    statistic: Statistic
    higher_is_better: bool = True
    averageable: bool = True
    watched: bool = True
    by_group: bool = False
    interval: bool = True
    observed: Callable[[MetricInputs], MetricValue] | None = None

    def value(self, inputs: MetricInputs) -> MetricValue:
        """The metric, or the reason why there is none."""
        if self.observed is not None:
            return self.observed(inputs)
        return self.compute(inputs.scores, inputs.mos)

    def draws(
        self,
        inputs: MetricInputs,
        count: int,
        seed: int,
        clusters: Sequence[object] | None = None,
    ) -> FloatArray:
        """[D] the metric in bootstrap draws (`vqr1.iqa.bootstrap.bootstrap_draws`).

        Args:
            inputs: of one set.
            count: D; a metric without interval has none.
            seed: of the draws.
            clusters: [n] references to draw by; None draws images.
        """
        count = count if self.interval else 0
        if self.observed is None:
            return bootstrap_draws(
                self.statistic, inputs.scores, inputs.mos,
                clusters=clusters, draws=count, seed=seed,
            )  # fmt: skip
        observed = self.observed

        def of_rows(scores: FloatArray, drawn: FloatArray) -> float:
            # A draw is given as rows, so that the standard deviations are drawn too.
            rows = drawn.astype(np.int64)
            return observed(MetricInputs(scores, inputs.mos[rows], inputs.mos_std[rows])).value

        rows = np.arange(len(inputs.mos), dtype=np.float64)
        return bootstrap_draws(
            of_rows, inputs.scores, rows, clusters=clusters, draws=count, seed=seed
        )


@dataclass(frozen=True)
class FittedMetric:
    """One entry that is read from a logistic map of the scores; its draws fit the map again.

    Attributes:
        name: in logs and files.
        label: in tables.
        curve: the map.
        read: the metric of the fitted map.
        higher_is_better, averageable: as of `Metric`.
    """

    name: str
    label: str
    curve: Curve
    read: Callable[[LogisticFit], MetricValue]
    higher_is_better: bool = True
    averageable: bool = True


class PreferenceMetric(Metric):
    """Accuracy over stated pairs (`vqr1.iqa.preferences`); it looks at no MOS.

    A draw takes images: a pair counts as often as both of its images are drawn, product by product.
    """

    def value(self, inputs: MetricInputs) -> MetricValue:
        """The accuracy in [0, 1], or the reason why there is none."""
        if inputs.pairs is None or not len(inputs.pairs):
            return MetricValue(math.nan, "no stated pair of two scored images")
        credit, counted = pair_credits(_differences(inputs), inputs.pairs)
        if not counted.any():
            return MetricValue(math.nan, "no stated pair has a majority")
        return MetricValue(float(credit[counted].mean()))

    def draws(
        self,
        inputs: MetricInputs,
        count: int,
        seed: int,
        clusters: Sequence[object] | None = None,
    ) -> FloatArray:
        """[D] the accuracy in bootstrap draws of images or references."""
        if self.value(inputs).reason or inputs.pairs is None:
            return np.full(count, np.nan)
        credit, counted = pair_credits(_differences(inputs), inputs.pairs)
        i, j = inputs.pairs.first[counted], inputs.pairs.second[counted]
        found = []
        for block in resample_counts(Units.of(len(inputs.scores), clusters), count, seed):
            for drawn in block:
                weights = drawn[i] * drawn[j]
                total = weights.sum()
                found.append(float(weights @ credit[counted] / total) if total else math.nan)
        return np.asarray(found, dtype=np.float64)


def _differences(inputs: MetricInputs) -> FloatArray:
    """[m] score_i - score_j of each stated pair."""
    assert inputs.pairs is not None
    return inputs.scores[inputs.pairs.first] - inputs.scores[inputs.pairs.second]


_NO_PAIRS = MetricValue(math.nan, "it compares images in stated pairs")

PREFERENCE_ACCURACY = PreferenceMetric(
    "preference_accuracy", "pair accuracy", lambda scores, mos: _NO_PAIRS, lambda *_: math.nan
)
"""The metric that `target=pairs` adds."""

METRICS = (
    Metric("srcc", "SRCC", srcc_value, srcc, by_group=True),
    Metric("krcc", "KRCC", krcc_value, krcc, by_group=True, watched=False),
    Metric("plcc", "PLCC", plcc_value, plcc, by_group=True),
)
"""Metrics of scores as they are, in the order of tables."""

FITTED = (
    FittedMetric("plcc_logistic4", "PLCC, 4-p. fit", "logistic4", lambda fit: fit.plcc),
    FittedMetric("plcc_logistic5", "PLCC, 5-p. fit", "logistic5", lambda fit: fit.plcc),
    FittedMetric(
        "rmse_logistic4", "RMSE, 4-p. fit", "logistic4", lambda fit: fit.rmse,
        higher_is_better=False, averageable=False,
    ),
    FittedMetric(
        "rmse_logistic5", "RMSE, 5-p. fit", "logistic5", lambda fit: fit.rmse,
        higher_is_better=False, averageable=False,
    ),
)  # fmt: skip
"""Metrics after a logistic map; those of the maps that `statistics.curves` names are computed."""


Entry = Metric | FittedMetric


def all_entries(metrics: Sequence[Metric] = METRICS) -> list[Entry]:
    """Metrics of scores as they are, then those after a map."""
    return [*metrics, *FITTED]


def headline(metrics: Iterable[Metric] = METRICS) -> Metric:
    """The entry that is called `HEADLINE`."""
    return next(metric for metric in metrics if metric.name == HEADLINE)


def labels(metrics: Sequence[Metric] = METRICS) -> dict[str, str]:
    """What tables call each metric, by name."""
    return {metric.name: metric.label for metric in all_entries(metrics)}


def watched(metrics: Sequence[Metric] = METRICS) -> list[Metric]:
    """The metrics that each validation logs, the headline first."""
    found = [metric for metric in metrics if metric.watched]
    return sorted(found, key=lambda metric: metric.name != HEADLINE)


def monitored(metrics: Sequence[Metric]) -> list[str]:
    """What a validation logs that may choose the best checkpoint: `val/NAME`, `val/NAME_greedy`.

    Each is logged for the exported weights with `_best` at its end.
    """
    names = [metric.name for metric in metrics if metric.watched]
    return [f"val/{name}{suffix}" for suffix in ("", "_greedy") for name in names]


def logged_metric(logged: str, metrics: Sequence[Metric] = METRICS) -> Entry | None:
    """The entry of a logged metric, such as `val/srcc_best` or `eval/koniq/plcc_logistic4`.

    Returns:
        None for anything else that is logged: a loss, a rate, a time.
    """
    entries = sorted(all_entries(metrics), key=lambda entry: -len(entry.name))
    return next((entry for entry in entries if is_logged_as(entry.name, logged)), None)


def is_logged_as(name: str, logged: str) -> bool:
    """Whether a logged metric is the metric of this name: of some images, at some time."""
    return any(part == name or part.startswith(f"{name}_") for part in logged.split("/"))


def falling_metrics(config: Mapping[str, object]) -> frozenset[str]:
    """Names of metrics of the user's own that fall with quality.

    Args:
        config: a run's configuration by dotted keys, of its file or as MLflow shows it.
    """
    return frozenset(
        key.split(".")[1]
        for key, value in config.items()
        if key.startswith(OWN_METRICS) and key.endswith(f".{DIRECTION}") and str(value) == "False"
    )


def higher_is_better(
    logged: str, metrics: Sequence[Metric] = METRICS, falling: Collection[str] = ()
) -> bool:
    """Which way a logged metric points; one that has no entry is taken to rise with quality.

    Args:
        logged: as it is logged.
        metrics: the entries.
        falling: names of metrics beside them that fall with quality (`falling_metrics`).
    """
    if any(is_logged_as(name, logged) for name in falling):
        return False
    found = logged_metric(logged, metrics)
    return found is None or found.higher_is_better


def metrics_of(
    chosen: Mapping[str, MetricConfig], target: TrainingTarget = "mos"
) -> tuple[Metric, ...]:
    """The entries of this file and those of a configuration.

    Args:
        chosen: by name, the group `metrics`.
        target: `pairs` adds the accuracy over stated pairs.

    Raises:
        ConfigError: a name that is taken, or a function that does not exist.
    """
    own, problems = [], []
    for name, config in chosen.items():
        if name in (*labels(), PREFERENCE_ACCURACY.name):
            problems.append(f"metrics.{name}: there is a metric of this name; choose another")
            continue
        try:
            own.append(_own(name, config))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return (*METRICS, *([PREFERENCE_ACCURACY] if target == "pairs" else []), *own)


def _own(name: str, config: MetricConfig) -> Metric:
    function = config.function(f"metrics.{name}")

    def observed(inputs: MetricInputs) -> MetricValue:
        reason = obstacle(inputs.scores, inputs.mos)
        if reason:
            return MetricValue(math.nan, reason)
        found: object = function(inputs)
        if not isinstance(found, MetricValue):
            found = MetricValue(float(found))  # type: ignore[arg-type]
        if math.isfinite(found.value):
            return found
        return MetricValue(math.nan, found.reason or f"{name} is not a finite number")

    def metric(scores: FloatArray, mos: FloatArray) -> MetricValue:
        return observed(MetricInputs.of(scores, mos))

    return Metric(
        name,
        config.label or name,
        metric,
        lambda scores, mos: metric(scores, mos).value,
        higher_is_better=config.higher_is_better,
        averageable=config.averageable,
        interval=config.interval,
        observed=observed,
    )


def measure(metric: MetricValue, draws: FloatArray, units: int, level: float) -> Measured:
    """A metric with the interval of its D draws."""
    if metric.reason:
        return Measured(metric.value, Interval(math.nan, math.nan, metric.reason), metric.reason)
    if not len(draws):
        return Measured(metric.value, Interval(math.nan, math.nan, "no bootstrap draws asked for"))
    return Measured(metric.value, interval_of_draws(draws, units, level))
