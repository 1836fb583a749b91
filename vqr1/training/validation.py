"""Validation while training: mean of sampled scores, and greedy answers.

Watch this curve and not the reward: a predictor that cannot distinguish any two images already
earns a fidelity reward of .707, and a healthy run moves it by hundredths only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vqr1.config import PromptConfig, SamplingConfig
from vqr1.distributed.collectives import broadcast_from_rank0, gather_objects_to_rank0
from vqr1.errors import DataError
from vqr1.evaluation.metrics import METRICS, Metric, watched
from vqr1.evaluation.predictions import NOTHING, Predictions, concatenate, with_pairs
from vqr1.evaluation.protocol import score_images
from vqr1.evaluation.summary import Summary, summarise
from vqr1.inference.policy_replies import ReplyEngine
from vqr1.inference.request import Request
from vqr1.iqa.answers import AnswerForm
from vqr1.iqa.preferences import StatedPairs
from vqr1.records import RankingBatch


@dataclass(frozen=True)
class ValidationModes:
    """The ways in which validation images are evaluated.

    Attributes:
        primary: gives `val/srcc`; the mean of sampled scores unless none are sampled, or that over
            words of levels.
        greedy: gives `val/srcc_greedy`; None when it is the primary way already.
    """

    primary: Request
    greedy: Request | None


def level_mode(
    prompt: PromptConfig, answer: AnswerForm, sampling: SamplingConfig
) -> ValidationModes:
    """One pass over the words of levels."""
    return ValidationModes(
        Request(prompt, answer, sampling, expected=True, levels=True), greedy=None
    )


def validation_modes(
    sampling: SamplingConfig, samples: int, seed: int, prompt: PromptConfig, answer: AnswerForm
) -> ValidationModes:
    """The two ways for a number of sampled responses; 0 evaluates greedy answers only."""
    drawn = Request(prompt, answer, sampling, samples, seed)
    greedy = replace(drawn, sampling=replace(sampling, temperature=0.0), samples=1)
    if samples == 0:
        return ValidationModes(greedy, None)
    return ValidationModes(drawn, greedy)


class Validator:
    """Collects predictions batch by batch and turns them into metrics.

    Args:
        engine: samples responses from the current policy.
        modes: how images are evaluated.
        metrics: what is computed; those that are watched are logged.
        pairs: by data set, stated preferences, where a metric looks at them.
    """

    def __init__(
        self,
        engine: ReplyEngine,
        modes: ValidationModes,
        metrics: Sequence[Metric] = METRICS,
        pairs: Mapping[str, StatedPairs] | None = None,
    ) -> None:
        self.engine = engine
        self.pairs = pairs or {}
        self.metrics = metrics
        self.modes = modes
        self.predictions: Predictions | None = None
        self.reasons: dict[str, str] = {}
        self._primary: list[Predictions] = []
        self._greedy: list[Predictions] = []

    def add(self, batch: RankingBatch) -> None:
        """Evaluate one batch."""
        self._primary.append(score_images(self.engine, [batch], request=self.modes.primary))
        if self.modes.greedy is not None:
            self._greedy.append(score_images(self.engine, [batch], request=self.modes.greedy))

    def finish(self) -> dict[str, float]:
        """Metrics of all batches added since the last call in any process, by metric name.

        The primary predictions stay in `predictions` for tables and plots, and why a metric is
        undefined in `reasons`, on rank 0.

        Raises:
            DataError: every image was skipped.
        """
        self.predictions = in_table_order(self._primary)
        greedy = in_table_order(self._greedy) if self.modes.greedy is not None else None
        self._primary, self._greedy = [], []
        return broadcast_from_rank0(lambda: self._all_metrics(greedy))

    def _all_metrics(self, greedy: Predictions | None) -> dict[str, float]:
        if self.predictions is None:
            raise DataError(NOTHING)
        self.predictions = with_pairs(self.predictions, self.pairs)
        summary = summarise(self.predictions, draws=0, metrics=self.metrics)
        results = _metrics(summary, "", watched(self.metrics))
        self.reasons = _reasons(summary, "")
        if greedy is not None:
            summary = summarise(with_pairs(greedy, self.pairs), draws=0, metrics=self.metrics)
            results |= {
                **{
                    f"{m.name}_greedy": summary.metrics[m.name].value for m in watched(self.metrics)
                },
                "unscored_images_greedy": float(summary.n - summary.n_scored),
            }
            self.reasons |= _reasons(summary, "_greedy")
        return results


def in_table_order(parts: Sequence[Predictions]) -> Predictions | None:
    """Join what the processes have evaluated, each image once, as one process would have it.

    Args:
        parts: this process's batches in order; batches were dealt in turn.

    Returns:
        All rows, set after set in table order, on rank 0; None in the others, and where every
        image was skipped.
    """
    dealt = gather_objects_to_rank0(list(parts))
    if dealt is None or not any(dealt):
        return None
    if len(dealt) == 1:
        return concatenate(dealt[0])
    longest = max(map(len, dealt))
    turns = [part[i] for i in range(longest) for part in dealt if i < len(part)]
    rows = concatenate(turns)
    sets = {name: number for number, name in enumerate(dict.fromkeys(rows.datasets))}
    keys = np.stack([[sets[name] for name in rows.datasets], rows.index], axis=1)
    _, order = np.unique(keys, axis=0, return_index=True)
    return rows.rows(order)


def _metrics(summary: Summary, suffix: str, metrics: Sequence[Metric]) -> dict[str, float]:
    results = {
        **{f"{metric.name}{suffix}": summary.metrics[metric.name].value for metric in metrics},
        f"invalid_rate{suffix}": summary.invalid_rate,
        f"score_std{suffix}": summary.score_std,
        f"images{suffix}": float(summary.n),
        f"unscored_images{suffix}": float(summary.n - summary.n_scored),
    }
    for name, part in summary.parts.items():
        results |= _metrics(part, f"/{name}", metrics)
    return results


def _reasons(summary: Summary, suffix: str) -> dict[str, str]:
    """Why metrics of a validation are undefined, by the name that they are logged under."""
    return {f"val/{name}{suffix}": reason for name, reason in summary.reasons.items()}
