"""From what a model replied to predictions with MOS.

What it does: joins the replies to a batch of images (`vqr1.inference`) with the batch's MOS,
whoever replied: a backend, or the policy that is being trained.

Not here: who replies and how (`vqr1.inference`), the record itself
(`vqr1.evaluation.predictions`), results (`vqr1.evaluation.summary`) and files
(`vqr1.evaluation.prediction_file`).

Shape legend: S answers an image, B images of one batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from vqr1.evaluation.predictions import Predictions, concatenate
from vqr1.inference.answers import read_reply
from vqr1.inference.policy_replies import ReplyEngine, policy_replies
from vqr1.inference.request import Reply, Request
from vqr1.policy.vision import VisionFeatures
from vqr1.records import RankingBatch

BatchScorer = Callable[[RankingBatch], Predictions]
"""Anything that scores one batch."""


def predictions_of(batch: RankingBatch, replies: Sequence[Reply], request: Request) -> Predictions:
    """Predictions of a batch.

    Args:
        batch: B images with MOS; what its labels state beside them is taken over.
        replies: one for each of them; that of an image with an error has its words as texts.
        request: what was asked.
    """
    answers = [read_reply(reply, request) for reply in replies]
    none = [("" if reply.error is None else reply.error,) * request.samples for reply in replies]
    scores = np.array(
        [[math.nan if s is None else s for s in answer.scores] for answer in answers],
        dtype=np.float64,
    ).reshape(len(batch), -1)
    format_compliant = np.array([answer.format_compliant for answer in answers], dtype=np.bool_)
    labels = batch.labels
    lost = [math.nan if reply.lost is None else reply.lost for reply in replies]
    return Predictions(
        images=batch.names,
        datasets=(batch.dataset,) * len(batch),
        index=batch.index.cpu().numpy().astype(np.int64),
        mos=batch.mos.detach().cpu().double().numpy(),
        scores=scores,
        valid=np.isfinite(scores),
        format_compliant=format_compliant.reshape(scores.shape),
        texts=tuple(a.texts or empty for a, empty in zip(answers, none, strict=True)),
        references=() if labels is None else labels.references,
        distortions=() if labels is None else labels.distortions,
        lost=np.array(lost, dtype=np.float64),
        std=np.empty(0) if labels is None else labels.std.detach().cpu().double().numpy(),
        decoded_at=batch.decoded_at,
    )


def score_batch(
    engine: ReplyEngine,
    batch: RankingBatch,
    request: Request,
    vision: VisionFeatures | None = None,
) -> Predictions:
    """Sample and parse S answers to each of a batch's B images, whose prompts are built.

    Args:
        engine: samples the answers.
        batch: the images.
        request: how an image is asked.
        vision: features of the B images, if already computed.
    """
    return predictions_of(batch, policy_replies(engine, batch.prompts, request, vision), request)


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
    engine: ReplyEngine,
    batches: Iterable[RankingBatch],
    *,
    request: Request,
    on_progress: Callable[[int], None] | None = None,
) -> Predictions:
    """Sample and parse answers for all images of `batches`.

    Args:
        engine: samples the answers.
        batches: evaluation batches; each image once, none dropped.
        request: how an image is asked.
        on_progress: called with the number of images of each finished batch.

    Raises:
        ValueError: `batches` is empty.
    """
    scored = score_batches(lambda batch: score_batch(engine, batch, request), batches, on_progress)
    return concatenate(list(scored))
