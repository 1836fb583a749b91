"""Scores from an OpenAI-compatible server (`vqr1.rollout.server`) in place of a model here.

What it does: the loader's workers resize the pictures as the served model does and hand them on as
they are (`PictureReader`); `ServerScorer` asks the server and parses its answers by the same rules
as those of a policy. An image that the server refuses has invalid answers, with its reason as text.

What it leaves out: the client, its retries and its errors (`vqr1.rollout.server`).

Shape legend: B images of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vqr1.data.prompts import QWEN_FACTOR, ResizeRule
from vqr1.evaluation.predictions import Predictions
from vqr1.evaluation.protocol import EvaluationMode, predictions_of_texts
from vqr1.policy.top_logprobs import expected_from_tokens
from vqr1.records import PromptBatch, RankingBatch
from vqr1.rollout.server import ChatServer, ServerReply


class PictureReader:
    """Batches of pictures without prompts: the server makes its own.

    Args:
        min_pixels: smallest area, in pixels, that a picture is resized to.
        max_pixels: largest area.
    """

    def __init__(self, min_pixels: int, max_pixels: int) -> None:
        self.rule = ResizeRule(QWEN_FACTOR, min_pixels, max_pixels)

    def resize(self, picture: Image.Image) -> Tensor:
        """[H, W, 3] uint8 pixels of a picture after resizing."""
        return self.rule.pixels(picture)

    def from_resized(self, pixels: Sequence[Tensor]) -> PromptBatch:
        """B resized pictures [H_b, W_b, 3] uint8."""
        none = torch.empty(0, dtype=torch.int64)
        return PromptBatch((none,) * len(pixels), tuple(pixels))

    def with_keys(self, prompts: PromptBatch) -> PromptBatch:
        """The batch as it is: a server keeps no features here."""
        return prompts


class ServerScorer:
    """Scores a batch by asking a server.

    Args:
        server: the client.
        question: the text behind the image.
        vision_id: put "Picture 1: " before the image.
        mode: how an image is asked.
        expected: read the expected score from one greedy answer's probabilities.
    """

    def __init__(
        self,
        server: ChatServer,
        question: str,
        vision_id: bool,
        mode: EvaluationMode,
        expected: bool,
    ) -> None:
        self._server = server
        self._question = question
        self._vision_id = vision_id
        self._mode = mode
        self._expected = expected

    def __call__(self, batch: RankingBatch) -> Predictions:
        """Answers to a batch whose prompts are pictures (`PictureReader`).

        Raises:
            ModelError: the server cannot be used.
        """
        mode = self._mode
        replies = self._server.answers(
            batch.prompts.images,
            self._question,
            vision_id=self._vision_id,
            samples=mode.samples,
            sampling=mode.sampling,
            seed=mode.seed,
            logprobs=self._expected,
        )
        # Whatever a refusal says, it is no answer: it is not parsed, only kept.
        answers = [reply.texts or ("",) * mode.samples for reply in replies]
        found = predictions_of_texts(batch, answers, mode)
        if self._expected:
            score, lost = np.array([self._expectation(reply) for reply in replies]).reshape(-1, 2).T
            scores = score[:, None]
            found = replace(found, scores=scores, valid=np.isfinite(scores), lost=lost)
        texts = tuple(
            row if reply.refusal is None else (reply.refusal,) * mode.samples
            for row, reply in zip(found.texts, replies, strict=True)
        )
        return replace(found, texts=texts)

    def _expectation(self, reply: ServerReply) -> tuple[float, float]:
        """Expected score and lost probability, NaN where there is none."""
        tokens = reply.tokens[0] if reply.tokens else ()
        found = expected_from_tokens(tokens, self._mode.score_range)
        score, lost = found.score, found.lost
        return math.nan if score is None else score, math.nan if lost is None else lost
