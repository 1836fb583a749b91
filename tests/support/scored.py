"""What a configuration of `score.py` makes of images, in this process."""

from __future__ import annotations

from collections.abc import Sequence

from vqr1.cli.compose import compose_config, plain_values
from vqr1.config import ScoreConfig, validate
from vqr1.inference.backends import build_backend
from vqr1.inference.images import ImageGroup
from vqr1.inference.result import Result
from vqr1.inference.scorer import Scorer


def results(images: Sequence[ImageGroup], *overrides: str) -> list[Result]:
    """Scores by `conf/score.yaml` with overrides."""
    config = validate(ScoreConfig, plain_values(compose_config("score", overrides)))
    backend = build_backend(
        config.backend, config.model, config.hardware, images=config.prompt.images
    )
    return Scorer(backend, config.prompt, config.answer.form, config.mode, seed=config.seed).score(
        images
    )
