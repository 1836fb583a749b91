"""The ways in which a batch gets its scores: sampled or greedy answers, or expected scores.

What it does: builds a `BatchScorer` for a mode. With expected scores, a prompt that asks for
reasoning gets greedy reasoning first; the expectation is then taken where the answer begins. An
answer is invalid where no `<answer>` begins, or where the model gives less than half of its
probability to the digits 1 to 5 there.

What it leaves out: loading the model (`vqr1.policy.loading`).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from vqr1.config import EvalModeConfig, PromptConfig
from vqr1.evaluation.predictions import Predictions
from vqr1.evaluation.protocol import BatchScorer, EvaluationMode, predictions_of, score_batch
from vqr1.policy.expected_score import MIN_MASS, OPEN_TAG, expected_scores, until_answer
from vqr1.policy.loading import Policy
from vqr1.policy.vision import encode_images
from vqr1.records import RankingBatch
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
    if config.name == "expected":
        return ExpectedScorer(policy, engine, mode, config.micro_batch_tokens)
    return lambda batch: score_batch(engine, batch, mode)


class ExpectedScorer:
    """Scores a batch by expectation.

    Args:
        policy: model and processor.
        engine: samples the reasoning.
        mode: greedy mode; its answer format says whether there is reasoning.
        micro_batch_tokens: most tokens in one forward pass.
    """

    def __init__(
        self, policy: Policy, engine: LocalEngine, mode: EvaluationMode, micro_batch_tokens: int
    ) -> None:
        self._policy = policy
        self._engine = engine
        self._mode = mode
        self._budget = micro_batch_tokens

    @torch.no_grad()
    def __call__(self, batch: RankingBatch) -> Predictions:
        """One expected score an image."""
        vision = encode_images(self._policy.model, batch.prompts)
        if self._mode.answer_format == "think_answer":
            reasoned = score_batch(self._engine, batch, self._mode, vision)
            texts = [row[0] for row in reasoned.texts]
            well_formed = reasoned.well_formed
        else:
            texts = [OPEN_TAG] * len(batch)
            well_formed = np.ones((len(batch), 1), dtype=np.bool_)
        beginnings = [until_answer(text) for text in texts]
        # An answer that never begins is still computed, as an empty one, and thrown away: such
        # answers are rare, and the batch stays whole.
        found = expected_scores(
            self._policy.model,
            self._policy.processor.tokenizer,
            batch.prompts,
            [beginning or OPEN_TAG for beginning in beginnings],
            vision=vision,
            micro_batch_tokens=self._budget,
        )
        begun = np.array([beginning is not None for beginning in beginnings])
        valid = begun & (found.mass.numpy() >= MIN_MASS)
        scores = np.where(valid, found.score.numpy(), math.nan)[:, None]
        return predictions_of(batch, scores, [[text] for text in texts], well_formed)
