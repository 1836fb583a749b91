"""How a policy is asked for scores.

What it does: samples answers for evaluation batches and parses them into `Predictions`. An engine
draws an image's answers from the seed and the image alone, so an evaluation that is shared out over
processes, or killed and continued with the same batches, gives the same answers.

The record (`Predictions`) and the figures (`summarise`, `paired_gain`) are exported here too: this
module is what training imports.

What it leaves out: expected scores (`vqr1.policy.expected_score`) and files
(`vqr1.evaluation.prediction_file`).

Shape legend: n images, S answers an image, B images of one batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from vqr1.config import SamplingConfig
from vqr1.evaluation.predictions import BoolArray, Predictions, ScoreRule, concatenate
from vqr1.evaluation.summary import Gain, Summary, paired_gain, summarise
from vqr1.iqa.answers import ASKED_RANGE, AnswerFormat, ScoreRange, parse_answer
from vqr1.iqa.correlation import FloatArray
from vqr1.policy.vision import VisionFeatures
from vqr1.records import PromptBatch, RankingBatch, Rollout

__all__ = [
    "BatchScorer",
    "EvaluationMode",
    "Gain",
    "Predictions",
    "SamplingEngine",
    "ScoreRule",
    "Summary",
    "concatenate",
    "paired_gain",
    "predictions_of",
    "predictions_of_texts",
    "score_batch",
    "score_batches",
    "score_images",
    "summarise",
]


class SamplingEngine(Protocol):
    """What evaluation needs of a rollout engine (`vqr1.rollout.engine.RolloutEngine`)."""

    def sample(
        self,
        prompts: PromptBatch,
        *,
        group_size: int,
        sampling: SamplingConfig,
        seed: int,
        vision: VisionFeatures | None = None,
    ) -> Rollout:
        """`group_size` responses to each prompt; the same seed gives the same responses."""
        ...


@dataclass(frozen=True)
class EvaluationMode:
    """How an image is asked for its score.

    Attributes:
        sampling: how one response is drawn; temperature 0 is greedy.
        samples: S, responses averaged for each image.
        seed: seed of all draws.
        answer_format: form that a response must have to count as well formed.
        score_range: scale that the prompt asks for.
    """

    sampling: SamplingConfig
    samples: int = 1
    seed: int = 0
    answer_format: AnswerFormat = "think_answer"
    score_range: ScoreRange = ASKED_RANGE


BatchScorer = Callable[[RankingBatch], Predictions]
"""Anything that scores one batch: sampled answers, expected scores, a scoring server."""


def score_batch(
    engine: SamplingEngine,
    batch: RankingBatch,
    mode: EvaluationMode,
    vision: VisionFeatures | None = None,
) -> Predictions:
    """Sample and parse S answers to each of a batch's B images.

    Args:
        engine: samples the responses.
        batch: the images.
        mode: how an image is asked.
        vision: features of the B images, if already computed.
    """
    rollout = engine.sample(
        batch.prompts,
        group_size=mode.samples,
        sampling=mode.sampling,
        seed=mode.seed,
        vision=vision,
    )
    return predictions_of_texts(batch, rollout.texts, mode)


def predictions_of_texts(
    batch: RankingBatch, texts: Sequence[Sequence[str]], mode: EvaluationMode
) -> Predictions:
    """Predictions of a batch from its answers: B lists of S texts."""
    answers = [
        [parse_answer(text, mode.answer_format, mode.score_range) for text in row] for row in texts
    ]
    scores = np.array(
        [[math.nan if a.score is None else a.score for a in row] for row in answers],
        dtype=np.float64,
    ).reshape(len(batch), -1)
    well_formed = np.array([[a.well_formed for a in row] for row in answers], dtype=np.bool_)
    return predictions_of(batch, scores, texts, well_formed.reshape(scores.shape))


def predictions_of(
    batch: RankingBatch,
    scores: FloatArray,
    texts: Sequence[Sequence[str]],
    well_formed: BoolArray,
) -> Predictions:
    """Predictions of a batch from its scores [B, S] (NaN: no answer) and texts (B lists of S)."""
    return Predictions(
        images=batch.images,
        datasets=(batch.dataset,) * len(batch),
        index=batch.index.cpu().numpy().astype(np.int64),
        mos=batch.mos.detach().to("cpu", torch.float64).numpy(),
        scores=scores,
        valid=np.isfinite(scores),
        well_formed=well_formed,
        texts=tuple(tuple(row) for row in texts),
    )


def score_batches(
    scorer: BatchScorer,
    batches: Iterable[RankingBatch],
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[Predictions]:
    """Score batch after batch; `on_progress` gets the number of images of each finished batch."""
    for batch in batches:
        scored = scorer(batch)
        if on_progress is not None:
            on_progress(len(scored))
        yield scored


def score_images(
    engine: SamplingEngine,
    batches: Iterable[RankingBatch],
    *,
    mode: EvaluationMode,
    on_progress: Callable[[int], None] | None = None,
) -> Predictions:
    """Sample and parse answers for all images of `batches`.

    Args:
        engine: samples the responses.
        batches: evaluation batches; each image once, none dropped.
        mode: how an image is asked.
        on_progress: called with the number of images of each finished batch.

    Raises:
        ValueError: `batches` is empty.
    """
    scored = score_batches(lambda batch: score_batch(engine, batch, mode), batches, on_progress)
    return concatenate(list(scored))
