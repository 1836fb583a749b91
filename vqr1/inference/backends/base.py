"""What scoring asks of a model, wherever it runs.

`Scorer` turns replies into results; a backend knows nothing of scores' means, invalid answers or
files. Backends: `local` (our engine), `openai` (any OpenAI-compatible server), `vllm` (in this
process).

Shape legend: B images of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image
from torch import Tensor

from vqr1.config import PromptConfig, SamplingConfig


@dataclass(frozen=True)
class Request:
    """What each image of a batch is asked.

    Attributes:
        prompt: the question and the form of its answer.
        sampling: how one answer is drawn; temperature 0 is greedy.
        samples: answers to each image, at least 1.
        seed: of the draws.
        expected: the distribution over the answer's numbers is wanted too; the sampling is greedy
            then, and `samples` is 1.
        micro_batch_tokens: most tokens that a backend in this process computes together.
    """

    prompt: PromptConfig
    sampling: SamplingConfig
    samples: int
    seed: int
    expected: bool
    micro_batch_tokens: int


@dataclass(frozen=True)
class Reply:
    """What a model says of one image.

    Attributes:
        texts: the answers; empty where none was generated (`expected` without reasoning).
        score: expected score; None where not asked for, or where the answer never begins or gives
            the numbers of the grammar too little probability.
        std: its standard deviation, likewise.
        lost: probability of answers that are no such number; None where not asked for, or where the
            answer never begins.
        error: why this image cannot be judged, other images could; None where it was.
    """

    texts: tuple[str, ...] = ()
    score: float | None = None
    std: float | None = None
    lost: float | None = None
    error: str | None = None


class Backend(Protocol):
    """A model that answers questions about pictures."""

    def resize(self, picture: Image.Image) -> Tensor:
        """[H, W, 3] uint8 pixels that the model will see; its reply depends on nothing else.

        Raises:
            DataError: a picture too narrow for the model.
        """
        ...

    def prepare(self, request: Request) -> None:
        """Find out now what would make every reply fail.

        Raises:
            ConfigError: a request that this backend cannot answer.
            ModelError: the model or its server cannot be used.
        """
        ...

    def reply(self, pixels: Sequence[Tensor], request: Request) -> list[Reply]:
        """One reply for each of B resized pictures.

        Raises:
            ModelError: the model or its server cannot be used at all.
        """
        ...
