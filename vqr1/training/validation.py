"""Validation while training: mean of sampled scores, and greedy answers.

Watch this curve and not the reward: a predictor that cannot tell any two images apart already
earns a fidelity reward of .707, and a healthy run moves it by hundredths only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vqr1.config import SamplingConfig
from vqr1.evaluation.predictions import Predictions, concatenate
from vqr1.evaluation.protocol import EvaluationMode, SamplingEngine, score_images
from vqr1.evaluation.summary import Summary, summarise
from vqr1.iqa.answers import ASKED_RANGE, AnswerFormat, ScoreRange
from vqr1.records import RankingBatch


@dataclass(frozen=True)
class ValidationModes:
    """The ways in which validation images are judged.

    Attributes:
        primary: gives `val/srcc`; the mean of sampled scores unless none are sampled.
        greedy: gives `val/srcc_greedy`; None when it is the primary way already.
    """

    primary: EvaluationMode
    greedy: EvaluationMode | None


def validation_modes(
    sampling: SamplingConfig,
    samples: int,
    seed: int,
    answer_format: AnswerFormat,
    score_range: ScoreRange = ASKED_RANGE,
) -> ValidationModes:
    """The two ways for a number of sampled responses; 0 judges greedy answers only."""
    drawn = EvaluationMode(sampling, samples, seed, answer_format, score_range)
    greedy = replace(drawn, sampling=replace(sampling, temperature=0.0), samples=1)
    if samples == 0:
        return ValidationModes(greedy, None)
    return ValidationModes(drawn, greedy)


class Validator:
    """Collects predictions batch by batch and turns them into figures.

    Args:
        engine: samples responses from the current policy.
        modes: how images are judged.
    """

    def __init__(self, engine: SamplingEngine, modes: ValidationModes) -> None:
        self.engine = engine
        self.modes = modes
        self.predictions: Predictions | None = None
        self._primary: list[Predictions] = []
        self._greedy: list[Predictions] = []

    def add(self, batch: RankingBatch) -> None:
        """Judge one batch."""
        self._primary.append(score_images(self.engine, [batch], mode=self.modes.primary))
        if self.modes.greedy is not None:
            self._greedy.append(score_images(self.engine, [batch], mode=self.modes.greedy))

    def finish(self) -> dict[str, float]:
        """Figures of all batches added since the last call, by metric name.

        The primary predictions stay in `predictions` for tables and plots.
        """
        self.predictions = concatenate(self._primary)
        figures = _figures(summarise(self.predictions, draws=0), "")
        if self._greedy:
            greedy = summarise(concatenate(self._greedy), draws=0)
            figures |= {"srcc_greedy": greedy.srcc, "plcc_greedy": greedy.plcc}
        self._primary, self._greedy = [], []
        return figures


def _figures(summary: Summary, suffix: str) -> dict[str, float]:
    figures = {
        f"srcc{suffix}": summary.srcc,
        f"plcc{suffix}": summary.plcc,
        f"invalid_rate{suffix}": summary.invalid_rate,
        f"score_std{suffix}": summary.score_std,
    }
    for name, part in summary.parts.items():
        figures |= _figures(part, f"/{name}")
    return figures
