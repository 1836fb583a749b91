"""Keys of `python score.py` (`conf/score.yaml`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from vqr1.config.affects import Affects
from vqr1.config.answer import AnyAnswer
from vqr1.config.backend import AnyBackend
from vqr1.config.evaluation import EvalModeConfig
from vqr1.config.machine import HardwareConfig
from vqr1.config.model import ModelConfig, PromptConfig
from vqr1.config.types import STRICT_KEYS, PositiveFloat, PositiveInt, Seed


@dataclass(config=STRICT_KEYS, kw_only=True)
class ComparisonConfig:
    """How images are compared by their scores and standard deviations."""

    std_scale: PositiveFloat = 1.0
    """Multiplies every standard deviation; 1 is the published form of the probability."""
    gamma: PositiveFloat = 1e-6
    """Added to the summed variances of a pair; 1e-6 is the published one."""
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Share of the drawn ranks that an image's interval of ranks holds."""
    draws: PositiveInt = 1000
    """Draws after the intervals of ranks."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class ScoreConfig:
    """`python score.py`."""

    model: Annotated[ModelConfig, Affects.ANSWERS]
    prompt: Annotated[PromptConfig, Affects.ANSWERS]
    answer: Annotated[AnyAnswer, Affects.ANSWERS]
    mode: Annotated[EvalModeConfig, Affects.ANSWERS]
    """A description (`prompt=describe`) is sampled with `mode=sampled` and greedy otherwise."""
    backend: Annotated[AnyBackend, Affects.ANSWERS]
    """Who answers. With a server, `model` decides the image sizes only."""
    comparison: ComparisonConfig
    hardware: HardwareConfig
    task: Literal["score", "compare"] = "score"
    """`score`: a score, or a description, for each image. `compare`: a ranking of all images, with
    the probability that one is better than another."""
    column: str | tuple[str, ...] | None = None
    """Column of a CSV list, or key of a JSON lines list, that names the images; null is `image`.
    Several columns are the images of one prompt in its order, such as reference and image."""
    references: str | None = None
    """Undistorted references, each shown before its image by a prompt of two
    (`prompt=full_reference`): one file for all images, or a folder with files of the same names."""
    batch_size: PositiveInt = 16
    """Images computed together; does not change a score."""
    seed: Annotated[Seed, Affects.ANSWERS] = 0
    """Seed of sampled answers, and of the draws after the intervals of ranks."""
    output: str | None = None
    """File for the results; null writes to standard output."""
    format: Literal["table", "csv", "jsonl"] | None = None
    """Form of the results; null takes it from the ending of `output`, a table on standard
    output."""
    resume: Annotated[bool, Affects.START] = True
    """Continue `output` (CSV or JSON lines) where it exists: images that it holds are not scored
    again. False replaces it. A table or a ranking is always replaced."""
    results: str | None = None
    """With `task=compare`: a CSV or JSON lines file that an earlier command wrote. Its images are
    compared; none is scored, and no model is loaded."""
    pairs: str | None = None
    """With `task=compare`: CSV file for the probability of every pair."""
