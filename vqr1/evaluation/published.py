"""Published metrics of other models, to stand beside ours.

What it does: reads `published.json`: groups of models that were trained alike, each group with the
protocol and how far its metrics were checked, each model with the source of its metrics (SRCC and
PLCC by the name of our data-set configuration). The means over sets are computed here from the
metrics, never copied.

Not here: deciding whether two protocols are comparable; the reader gets both in words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

PlccOf = Literal["raw", "logistic4", "isotonic", "not stated"]
"""What a PLCC is taken of: scores as they are, or after a four-parameter logistic map or isotonic
regression that is fitted on the test images."""

PLCC_WORDS: Mapping[PlccOf, str] = {
    "raw": "raw",
    "logistic4": "4-p. fit",
    "isotonic": "isotonic fit",
    "not stated": "not stated",
}
"""What tables call them."""

FILE = Path(__file__).with_name("published.json")


@dataclass(frozen=True)
class PublishedMetrics:
    """SRCC and PLCC of one model on one set."""

    srcc: float
    plcc: float

    @classmethod
    def mean(cls, metrics: Sequence[PublishedMetrics]) -> PublishedMetrics:
        """Plain mean; NaN where one of them is."""
        count = len(metrics)
        return cls(sum(f.srcc for f in metrics) / count, sum(f.plcc for f in metrics) / count)


@dataclass(frozen=True)
class PublishedModel:
    """One model's metrics.

    Attributes:
        model: its name.
        trained_on: what it learnt quality from.
        source: where the metrics were published.
        plcc_of: what its PLCC is taken of, where the source states it.
        metrics: by data set.
        trained_sets: data sets, by our names, that it was trained on.
    """

    model: str
    trained_on: str
    source: str
    plcc_of: PlccOf
    metrics: Mapping[str, PublishedMetrics]
    trained_sets: tuple[str, ...] = ()

    def mean(self, sets: Sequence[str]) -> PublishedMetrics | None:
        """Plain mean over sets; None where a set has no metric."""
        if not sets or any(name not in self.metrics for name in sets):
            return None
        return PublishedMetrics.mean([self.metrics[name] for name in sets])


@dataclass(frozen=True)
class PublishedGroup:
    """Models that were trained and tested alike.

    Attributes:
        name: how they were trained.
        protocol: how they were tested.
        checked: what of the metrics was compared with their sources.
        not_stated: by data set, what its source does not state of how the set was aggregated.
        trained_mark: what it means that a model was trained on a set it was tested on.
        models: the models.
    """

    name: str
    protocol: str
    checked: str
    not_stated: Mapping[str, str]
    trained_mark: str
    models: tuple[PublishedModel, ...]

    def covering(self, sets: Sequence[str]) -> PublishedGroup | None:
        """The models with a metric for any of the sets; None where there is none."""
        models = tuple(m for m in self.models if any(name in m.metrics for name in sets))
        return replace(self, models=models) if models else None


def published_groups() -> tuple[PublishedGroup, ...]:
    """All groups of the data file."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    return tuple(
        PublishedGroup(
            group["name"],
            group["protocol"],
            group["checked"],
            group["not_stated"],
            group["trained_mark"],
            tuple(
                PublishedModel(
                    model["model"],
                    model["trained_on"],
                    group["sources"][model["source"]],
                    model["plcc"],
                    {name: PublishedMetrics(**f) for name, f in model["metrics"].items()},
                    tuple(model["trained_sets"]),
                )
                for model in group["models"]
            ),
        )
        for group in content["groups"]
    )
