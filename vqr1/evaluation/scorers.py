"""The ways in which a batch gets its scores: sampled or greedy answers, or expected scores.

What it does: builds a `BatchScorer` for a mode.

What it leaves out: how an expected score comes about (`vqr1.rollout.expected`), loading the model
(`vqr1.policy.loading`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vqr1.config import EvalModeConfig, PromptConfig
from vqr1.evaluation.predictions import Predictions
from vqr1.evaluation.protocol import (
    BatchScorer,
    EvaluationMode,
    predictions_of,
    predictions_of_texts,
    score_batch,
)
from vqr1.policy.loading import Policy
from vqr1.records import RankingBatch
from vqr1.rollout.expected import expected_answers
from vqr1.rollout.local import LocalEngine


def evaluation_mode(config: EvalModeConfig, prompt: PromptConfig, seed: int) -> EvaluationMode:
    """How an image is asked; `greedy` and `expected` take one greedy answer."""
    greedy = config.name != "sampled"
    return EvaluationMode(
        sampling=replace(config.sampling, temperature=0.0) if greedy else config.sampling,
        samples=1 if greedy else config.samples,
        seed=seed,
        answer_format=prompt.answer_format,
        score_range=prompt.score_range,
    )


def build_scorer(
    policy: Policy, config: EvalModeConfig, prompt: PromptConfig, seed: int
) -> BatchScorer:
    """A scorer for a mode.

    Args:
        policy: model and processor.
        config: the mode.
        prompt: what the model is asked; decides whether reasoning comes first.
        seed: seed of sampled answers.
    """
    engine = LocalEngine(policy.model, policy.processor.tokenizer, config.micro_batch_tokens)
    mode = evaluation_mode(config, prompt, seed)
    score = score_expected if config.name == "expected" else score_batch
    return lambda batch: score(engine, batch, mode)


def score_expected(engine: LocalEngine, batch: RankingBatch, mode: EvaluationMode) -> Predictions:
    """One expected score for each image of a batch.

    Args:
        engine: reads the prompts and writes the reasoning.
        batch: the images.
        mode: its answer format says whether there is reasoning; its `sampling` bounds it.
    """
    reasons = mode.answer_format == "think_answer"
    found = expected_answers(
        engine,
        batch.prompts,
        reasoning=mode.sampling if reasons else None,
        score_range=mode.score_range,
    )
    texts = [[text] for text in found.texts]
    # Without reasoning the form is given, not written.
    well_formed = np.ones((len(batch), 1), dtype=np.bool_)
    if reasons:
        well_formed = predictions_of_texts(batch, texts, mode).well_formed
    scored = predictions_of(batch, found.score.numpy()[:, None], texts, well_formed)
    return replace(scored, lost=found.lost.numpy())
