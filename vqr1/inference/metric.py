"""A quality metric as a Python call, in the manner that users of image metrics know.

    metric = vqr1.create_metric("tiny")
    scores = metric("photo.jpg")                # tensor [1]
    scores = metric(torch.rand(4, 3, 224, 224)) # tensor [4]

    metric = vqr1.create_metric("tiny", prompt="full_reference")
    scores = metric(["a.png", "b.png"], "reference.png")   # tensor [2]

Not here: gradients with respect to the image. An answer is text, so there are none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor

from vqr1.config import (
    AnswerConfig,
    AnyAnswer,
    EvalModeConfig,
    ModelConfig,
    PromptConfig,
    read_choice,
    validate,
)
from vqr1.config.folder import answer_of_prompt
from vqr1.errors import ConfigError, DataError
from vqr1.inference.backends.build import local_backend
from vqr1.inference.images import ImageGroup, ImageSource
from vqr1.inference.mode_checks import level_problems
from vqr1.inference.scorer import Scorer

Mode = Literal["expected", "greedy", "levels", "sampled"]


class QualityMetric:
    """Callable that gives the quality of images; see `create_metric`.

    Attributes:
        lower_better: False: higher scores are better quality.
        score_range: the scale that the prompt asks for. A model may leave it.
        scorer: gives results with uncertainty, text and validity (`Scorer.score`).
    """

    lower_better = False

    def __init__(self, scorer: Scorer, device: torch.device | str) -> None:
        self.scorer = scorer
        self.score_range = scorer.score_range
        self._device = device

    def __call__(
        self,
        images: ImageSource | Iterable[ImageGroup],
        references: ImageSource | Iterable[ImageSource] | None = None,
    ) -> Tensor:
        """Scores of images.

        Args:
            images: a path, the bytes of an image file, a Pillow image, a NumPy array [H, W, 3] (8
                bits, or floating numbers in [0, 1]), a tensor [N, 3, H, W] or [3, H, W] of RGB in
                [0, 1] (rounded to 8 bits), or a sequence of these.
            references: with a prompt of two images, the undistorted image of each, likewise; one
                alone is that of all images.

        Returns:
            [N] float32 scores on the metric's device, without gradient; NaN where the model's
            answer is invalid.

        Raises:
            DataError: an image cannot be read, or references do not fit the prompt or the images.
        """
        results = self.scorer.score(images, references)
        errors = [
            f"image {number}: {result.error}"
            for number, result in enumerate(results)
            if result.error is not None
        ]
        if errors:
            raise DataError("\n".join(errors))
        scores = [math.nan if result.score is None else result.score for result in results]
        return torch.tensor(scores, dtype=torch.float32, device=self._device)


def create_metric(
    name: str,
    model: str | None = None,
    device: torch.device | str = "cpu",
    mode: Mode = "expected",
    *,
    prompt: str = "thinking",
    samples: int = 6,
    seed: int = 0,
    batch_size: int = 16,
) -> QualityMetric:
    """A metric from a checkpoint.

    Args:
        name: a model configuration (file of `conf/model`), `-` or `_` alike: `tiny`,
            `visualquality-r1`, ... It decides image sizes, weight type and default checkpoint.
        model: checkpoint folder or hub name in place of the configuration's own; a student's folder
            (`stage=distill`) takes mode `expected` alone.
        device: where the model goes and the scores are.
        mode: `expected` and `greedy` are deterministic, `levels` is one pass over words of levels
            (`prompt="levels"`), `sampled` averages `samples` answers.
        prompt: `thinking`, `non_thinking`, `levels` or `full_reference` (files of `conf/prompt`).
        samples: answers averaged in mode `sampled`.
        seed: seed of the sampled answers.
        batch_size: images computed together; does not change a score.

    Raises:
        ConfigError: a name that there is no configuration for, a prompt that asks for no score, or
            a number out of range.
        ModelError: the checkpoint cannot be loaded.
    """
    # Another checkpoint may have another size, and takes the image sizes that go with it.
    changes = {} if model is None else {"path": model, "revision": None}
    chosen = read_choice("model", name, "name", changes=changes)
    config = validate(ModelConfig, chosen)
    asked = validate(PromptConfig, read_choice("prompt", prompt, "prompt"))
    answer = read_choice("answer", answer_of_prompt(prompt) or "think_answer", "answer")
    chosen_form: AnswerConfig = validate(AnyAnswer, answer)
    form = chosen_form.form
    problems = []
    if not form.scored:
        problems.append(f"prompt={prompt!r}: it asks for no score; use thinking or non_thinking")
    if mode not in get_args(Mode):
        problems.append(f"mode={mode!r}: must be expected, greedy, levels or sampled")
    problems += level_problems(form) if mode == "levels" and form.scored else []
    problems += [
        f"{key}={value!r}: must be {least} or more"
        for key, value, least in (
            ("samples", samples, 1),
            ("seed", seed, 0),
            ("batch_size", batch_size, 1),
        )
        if value < least
    ]
    if problems:
        raise ConfigError(problems)
    answers = validate(
        EvalModeConfig,
        {
            **read_choice("mode", "sampled", "mode", model=chosen),
            "name": mode,
            "samples": samples,
        },
    )
    backend = local_backend(config, device)
    scorer = Scorer(backend, asked, form, answers, seed=seed, batch_size=batch_size)
    return QualityMetric(scorer, device)
