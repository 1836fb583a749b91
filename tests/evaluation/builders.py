"""Predictions for tests, and an engine that answers from a list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from vqr1.config import PromptConfig, SamplingConfig
from vqr1.evaluation.predictions import Predictions
from vqr1.policy.vision import VisionFeatures
from vqr1.records import PromptBatch, RankingBatch, Rollout

THINKING = PromptConfig(name="thinking", text="")


def predictions(
    scores: Sequence[Any] | np.ndarray,
    mos: Sequence[float] | np.ndarray,
    *,
    dataset: str = "demo",
    references: Sequence[str] | None = None,
    distortions: Sequence[str] | None = None,
) -> Predictions:
    """One row an image; scores [n] or [n, S], NaN for invalid answers."""
    array = np.asarray(scores, dtype=float)
    array = array[:, None] if array.ndim == 1 else array
    n = len(array)
    return Predictions(
        images=tuple(f"{i}.png" for i in range(n)),
        datasets=(dataset,) * n,
        index=np.arange(n),
        mos=np.asarray(mos, dtype=float),
        scores=array,
        valid=np.isfinite(array),
        format_compliant=np.isfinite(array),
        texts=tuple(
            tuple(f"<think>noise {v:.2f}</think><answer>{v:.2f}</answer>" for v in row)
            for row in array
        ),
        references=tuple(references or ()),
        distortions=tuple(distortions or ()),
    )


def batch(images: Sequence[str], mos: Sequence[float], dataset: str = "demo") -> RankingBatch:
    """A batch whose prompts hold nothing: for engines that do not look at them."""
    n = len(images)
    prompts = PromptBatch(
        tuple(torch.tensor([1]) for _ in range(n)),
        ((torch.zeros((28, 28, 3), dtype=torch.uint8),),) * n,
    )
    return RankingBatch(
        dataset, tuple((image,) for image in images), prompts, torch.tensor(mos), torch.arange(n)
    )


class ListEngine:
    """Gives each prompt the next texts of a list and remembers how it was asked."""

    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        self.texts = [list(row) for row in texts]
        self.calls: list[tuple[int, SamplingConfig, int]] = []

    def sample(
        self,
        prompts: PromptBatch,
        *,
        group_size: int,
        sampling: SamplingConfig,
        seed: int,
        vision: VisionFeatures | None = None,
    ) -> Rollout:
        self.calls.append((group_size, sampling, seed))
        rows, self.texts = self.texts[: len(prompts)], self.texts[len(prompts) :]
        shape = (len(prompts), group_size, 1)
        return Rollout(
            torch.zeros(shape, dtype=torch.long),
            torch.ones(shape, dtype=torch.bool),
            rows,
            torch.ones(shape[:2], dtype=torch.bool),
        )
