"""Replies of a policy in this process, from prompts that are built already.

The local backend asks a loaded checkpoint by these functions, and training asks the policy that it
trains, so that greedy, sampled and expected answers come about in one place.

Not here: how an engine samples (`vqr1.rollout`), nor how an expected score is computed
(`vqr1.rollout.expected`, `vqr1.rollout.levels`).

Shape legend: B images of a batch.
"""

from __future__ import annotations

import math

import torch

from vqr1.inference.request import Reply, Request
from vqr1.policy.vision import VisionFeatures
from vqr1.records import PromptBatch
from vqr1.rollout.engine import SamplingEngine as SamplingEngine
from vqr1.rollout.engine import ScoringEngine
from vqr1.rollout.expected import expected_answers
from vqr1.rollout.levels import level_answers
from vqr1.rollout.local import LocalEngine

ReplyEngine = SamplingEngine | ScoringEngine
"""Whatever replies to prompts in this process."""


def policy_replies(
    engine: ReplyEngine,
    prompts: PromptBatch,
    request: Request,
    vision: VisionFeatures | None = None,
) -> list[Reply]:
    """Replies to B images, in the way that the request asks for.

    Args:
        engine: samples the answers; a `LocalEngine` where a distribution is asked for. One that
            scores by itself is asked for nothing else.
        prompts: B prompts.
        request: what is asked.
        vision: features of the B images, if already computed.
    """
    if isinstance(engine, ScoringEngine):
        return [Reply((), score) for score in engine.scores(prompts)]
    if not request.expected:
        return sampled_replies(engine, prompts, request, vision)
    assert isinstance(engine, LocalEngine), "checks of the configuration refuse other engines"
    if request.levels:
        return level_replies(engine, prompts, request, vision)
    return expected_replies(engine, prompts, request)


def level_replies(
    engine: LocalEngine,
    prompts: PromptBatch,
    request: Request,
    vision: VisionFeatures | None = None,
) -> list[Reply]:
    """Scores of B images from the words of the answer form; nothing is written.

    Args:
        engine: reads the prompts.
        prompts: B prompts.
        request: what is asked.
        vision: features of the B images, if already computed.
    """
    found = level_answers(engine, prompts, request.answer, vision)
    table = torch.stack([found.score, found.std, found.lost], dim=1).tolist()
    return [Reply((), *numbers) for numbers in table]


def sampled_replies(
    engine: SamplingEngine,
    prompts: PromptBatch,
    request: Request,
    vision: VisionFeatures | None = None,
) -> list[Reply]:
    """Sampled or greedy answers to B images.

    Args:
        engine: samples the answers.
        prompts: B prompts.
        request: how an answer is drawn, and how many.
        vision: features of the B images, if already computed.
    """
    rollout = engine.sample(
        prompts,
        group_size=request.samples,
        sampling=request.sampling,
        seed=request.seed,
        vision=vision,
    )
    return [Reply(tuple(texts)) for texts in rollout.texts]


def expected_replies(engine: LocalEngine, prompts: PromptBatch, request: Request) -> list[Reply]:
    """Expected scores of B images, after greedy reasoning where the answer form asks for it.

    Args:
        engine: reads the prompts and writes the reasoning.
        prompts: B prompts.
        request: what is asked; its `sampling` bounds the reasoning.
    """
    reasons = request.answer.reasons
    found = expected_answers(
        engine,
        prompts,
        reasoning=request.sampling if reasons else None,
        form=request.answer,
    )
    table = torch.stack([found.score, found.std, found.lost], dim=1).tolist()
    return [
        Reply((text,) if reasons else (), *(None if math.isnan(n) else n for n in numbers))
        for text, numbers in zip(found.texts, table, strict=True)
    ]
