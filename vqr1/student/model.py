"""A student: encoder, projection, and a head on the teacher's scores.

Until prototypes are fitted, a linear head scores; it is what trains the encoder.

Shape legend: B images, F features of the encoder, D numbers of an embedding.
Not here: losses and fits (`vqr1.training.stages.distill`), files (`folder.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from vqr1.iqa.answers import ScoreRange
from vqr1.records import PromptBatch
from vqr1.student.encoders import ImageEncoder
from vqr1.student.prototypes import (
    Prototypes,
    fit_prototypes,
    fit_ridge,
    prototype_scores,
)


@dataclass(frozen=True)
class StudentSizes:
    """Sizes of a student.

    Attributes:
        head: what scores: `prototypes`, or `linear` (ridge regression).
        embedding: D.
        components: P, principal components; at most D.
        prototypes: N.
        bins: of the teacher's scores; at most N.
    """

    head: Literal["prototypes", "linear"] = "prototypes"
    embedding: int = 64
    components: int = 32
    prototypes: int = 64
    bins: int = 24


class Student(nn.Module):
    """Scores images without a language model.

    Args:
        encoder: gives F features of an image.
        sizes: of projection and head.
        score_range: lowest and highest score of the teacher's prompt; scores stay inside.

    Attributes:
        mean: [] mean of the teacher's scores of the training images.
        std: [] their standard deviation.
        error: [] root mean squared error to the teacher's scores, of images that were not trained
            on, when the head was fitted.
        fitted: [] bool, whether the head was fitted.
    """

    mean: Tensor
    std: Tensor
    error: Tensor
    fitted: Tensor
    used: Tensor
    centre: Tensor
    basis: Tensor

    def __init__(self, encoder: ImageEncoder, sizes: StudentSizes, score_range: ScoreRange) -> None:
        super().__init__()
        self.encoder = encoder
        self.sizes, self.score_range = sizes, score_range
        d, p, n = sizes.embedding, sizes.components, sizes.prototypes
        self.projection = nn.Sequential(nn.LayerNorm(encoder.width), nn.Linear(encoder.width, d))
        self.linear = nn.Linear(d, 1)
        self.centres = nn.Parameter(torch.zeros(n, p))
        self.values = nn.Parameter(torch.zeros(n))
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.register_buffer("centre", torch.zeros(d))
        self.register_buffer("basis", torch.zeros(d, p))
        self.register_buffer("used", torch.zeros(n, dtype=torch.bool))
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("std", torch.tensor(1.0))
        self.register_buffer("error", torch.tensor(0.0))
        self.register_buffer("fitted", torch.tensor(False))

    def embed(self, images: Sequence[Tensor]) -> Tensor:
        """[B, D] embeddings of B images [H_b, W_b, 3] uint8."""
        embeddings = self.projection(self.encoder(images))
        assert isinstance(embeddings, Tensor)
        return embeddings

    def standardised(self, embeddings: Tensor) -> Tensor:
        """[B] scores of [B, D] embeddings, standardised as the teacher's are."""
        if self.sizes.head == "linear" or not self.fitted:
            scores: Tensor = self.linear(embeddings)[:, 0]
            return scores
        components = (embeddings - self.centre) @ self.basis
        return prototype_scores(
            components, self.centres, self.values, self.used, self.log_scale.exp()
        )

    def forward(self, images: Sequence[Tensor]) -> Tensor:
        """[B] scores of B images [H_b, W_b, 3] uint8, on the teacher's scale."""
        scores = self.mean + self.std * self.standardised(self.embed(images))
        return scores.clamp(*self.score_range)

    def standardise(self, scores: Tensor) -> Tensor:
        """[B] scores of the teacher in standard deviations from their mean."""
        return (scores - self.mean) / self.std

    @torch.no_grad()
    def fit(self, embeddings: Tensor, targets: Tensor, seed: int) -> None:
        """Fit the head to the training images.

        Args:
            embeddings: [n, D].
            targets: [n] standardised scores of the teacher.
            seed: of k-means.
        """
        sizes = self.sizes
        self.fitted.fill_(True)
        if sizes.head == "linear":
            weights, bias = fit_ridge(embeddings, targets)
            self.linear.weight.copy_(weights[None])
            self.linear.bias.copy_(bias[None])
            return
        self._take(
            fit_prototypes(
                embeddings,
                targets,
                components=sizes.components,
                bins=sizes.bins,
                count=sizes.prototypes,
                seed=seed,
            )
        )

    def _take(self, found: Prototypes) -> None:
        self.centre.copy_(found.mean)
        self.basis.copy_(found.basis)
        self.centres.copy_(found.centres)
        self.values.copy_(found.values)
        self.used.copy_(found.used)
        self.log_scale.fill_(math.log(found.inverse_temperature))

    def head_parameters(self) -> list[nn.Parameter]:
        """What is new and not the encoder's."""
        return [p for name, p in self.named_parameters() if not name.startswith("encoder.")]

    def record(self) -> dict[str, Any]:
        """What its configuration file states of it."""
        return {
            "encoder": self.encoder.record(),
            "sizes": asdict(self.sizes),
            "score_range": list(self.score_range),
        }


class StudentEngine:
    """Scores the images of prompts; in training in place of what samples responses.

    Args:
        student: the student.
    """

    def __init__(self, student: Student) -> None:
        self.student = student

    @torch.no_grad()
    def scores(self, prompts: PromptBatch) -> list[float]:
        """Scores of the images of B prompts of one image each."""
        self.student.eval()
        device = self.student.mean.device
        found: list[float] = self.student([i.to(device) for i in prompts.flat_images]).tolist()
        return found

    def synchronise(self) -> None:
        """Nothing: the student's weights are those that score."""

    def with_model(self, model: nn.Module) -> Self:
        """The engine of another student."""
        assert isinstance(model, Student)
        return type(self)(model)
