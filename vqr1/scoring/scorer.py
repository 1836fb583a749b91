"""Images to scores or descriptions, batch by batch.

| mode | score | std |
|---|---|---|
| `greedy` | the number in the likeliest answer | none |
| `expected` | expectation over the probabilities of the answer's digits, after greedy reasoning where the prompt asks for it | of that distribution (`vqr1.policy.expected_score`) |
| `sampled` | mean of the valid ones among N sampled answers | unbiased, over the valid ones; none for fewer than two |

An image's result depends on its pixels, the weights and the settings only, up to floating-point
rounding: batch size, order, neighbours and repetition do not enter, and the random numbers of
sampled answers come from the seed and the image's content. An answer from which no score can be
read is invalid and its score is None. In mode `expected` an answer is invalid where no `<answer>`
begins, or where the digits 1 to 5 have less than half of the probability there.

Not here: the command line (`vqr1.cli.score`), opinion scores and figures (`vqr1.evaluation`).

Shape legend: B images of a batch.
"""  # noqa: E501 - a table row cannot be broken

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from vqr1.config import EvalModeConfig, ModelConfig, PromptConfig
from vqr1.data.prompts import PromptBuilder
from vqr1.errors import DataError
from vqr1.iqa.answers import parse_answer
from vqr1.policy.expected_score import expected_scores
from vqr1.policy.loading import Policy
from vqr1.policy.vision import VisionFeatures, encode_images
from vqr1.records import PromptBatch
from vqr1.rollout.local import LocalEngine
from vqr1.scoring.pictures import ImageSource, name_of, open_picture, split_images
from vqr1.scoring.result import Result

OPEN_TAG = "<answer>"

MIN_MASS = 0.5
"""Probability of a digit from 1 to 5 below which an expected score is invalid."""


class Scorer:
    """Scores images with one policy, one prompt and one mode.

    Args:
        policy: model and processor; the model's weights are put out of the gradient.
        model: the sizes that images are resized to.
        prompt: what the model is asked; a `free` prompt gives descriptions without scores.
        mode: how an answer becomes a score.
        seed: seed of sampled answers.
        batch_size: images computed together.

    Raises:
        ConfigError: image sizes or prompt text that the processor cannot use.
    """

    def __init__(
        self,
        policy: Policy,
        model: ModelConfig,
        prompt: PromptConfig,
        mode: EvalModeConfig,
        *,
        seed: int = 0,
        batch_size: int = 16,
    ) -> None:
        policy.model.eval().requires_grad_(False)
        self._policy = policy
        self._builder = PromptBuilder(
            policy.processor, prompt.text, model.min_pixels, model.max_pixels
        )
        self._engine = LocalEngine(
            policy.model, policy.processor.tokenizer, mode.micro_batch_tokens
        )
        self._prompt = prompt
        self._mode = mode
        self._sampled = mode.name == "sampled"
        sampling = mode.sampling
        self._sampling = sampling if self._sampled else replace(sampling, temperature=0.0)
        self._seed = seed
        self._batch_size = batch_size
        self._device = next(policy.model.parameters()).device

    def score(self, images: ImageSource | Iterable[ImageSource]) -> list[Result]:
        """Results of images in their order.

        Args:
            images: one image or several: paths, Pillow pictures, tensors [3, H, W], or one tensor
                [N, 3, H, W], RGB in [0, 1].

        Raises:
            DataError: a tensor that is no image. Images that do not decode do not raise; their
                result carries the error.
        """
        return list(self.stream(images))

    def stream(self, images: ImageSource | Iterable[ImageSource]) -> Iterator[Result]:
        """As `score`, result by result: `images` may be an endless iterator."""
        rest = iter(split_images(images))
        while batch := list(islice(rest, self._batch_size)):
            yield from self._batch(batch)

    def _batch(self, images: Sequence[ImageSource]) -> list[Result]:
        """Results of one batch; equal pictures are computed once and get the same result."""
        errors: dict[int, str] = {}
        keys: dict[int, bytes] = {}
        pixels: dict[bytes, Tensor] = {}
        for position, image in enumerate(images):
            try:
                resized = self._builder.resize(open_picture(image))
            except DataError as error:
                if isinstance(image, Tensor):
                    raise
                errors[position] = _named(str(error), name_of(image))
                continue
            keys[position] = _content(resized)
            pixels.setdefault(keys[position], resized)
        found = dict(zip(pixels, self._computed(list(pixels.values())), strict=True))
        return [
            replace(found[keys[position]], path=name_of(image))
            if position in keys
            else Result(name_of(image), error=errors[position])
            for position, image in enumerate(images)
        ]

    @torch.no_grad()
    def _computed(self, pixels: Sequence[Tensor]) -> list[Result]:
        if not pixels:
            return []
        prompts = self._builder.from_resized(pixels).to(self._device)
        vision = encode_images(self._policy.model, prompts)
        if self._prompt.answer_format == "free":
            return [
                Result(None, valid=bool(texts[0].strip()), text=texts[0])
                for texts in self._answers(prompts, vision, 1)
            ]
        if self._mode.name == "expected":
            return self._expected(prompts, vision)
        samples = self._mode.samples if self._sampled else 1
        return [self._read(texts) for texts in self._answers(prompts, vision, samples)]

    def _answers(
        self, prompts: PromptBatch, vision: VisionFeatures, samples: int
    ) -> list[list[str]]:
        return self._engine.sample(
            prompts, group_size=samples, sampling=self._sampling, seed=self._seed, vision=vision
        ).texts

    def _read(self, texts: Sequence[str]) -> Result:
        """Mean and spread of the scores that the answers to one image state."""
        answers = [parse_answer(text, self._prompt.answer_format) for text in texts]
        scores = [answer.score for answer in answers if answer.score is not None]
        enough = len(texts) if self._mode.score_rule == "all_valid" else 1
        if len(scores) < enough:
            return Result(None, text=texts[0])
        return Result(
            None,
            score=statistics.fmean(scores),
            std=statistics.stdev(scores) if len(scores) > 1 else None,
            valid=True,
            text=texts[0],
        )

    def _expected(self, prompts: PromptBatch, vision: VisionFeatures) -> list[Result]:
        texts: list[str | None] = [None] * len(prompts)
        beginnings: list[str | None] = [OPEN_TAG] * len(prompts)
        if self._prompt.answer_format == "think_answer":
            reasoned = [group[0] for group in self._answers(prompts, vision, 1)]
            texts = list(reasoned)
            beginnings = [_until_answer(text) for text in reasoned]
        # An answer that never begins is still computed, as an empty one, and thrown away: such
        # answers are rare, and the batch stays whole.
        found = expected_scores(
            self._policy.model,
            self._policy.processor.tokenizer,
            prompts,
            [beginning or OPEN_TAG for beginning in beginnings],
            vision=vision,
            micro_batch_tokens=self._mode.micro_batch_tokens,
        )
        numbers = zip(found.score.tolist(), found.std.tolist(), found.mass.tolist(), strict=True)
        return [
            Result(None, score=score, std=std, valid=True, text=text)
            if beginning is not None and mass >= MIN_MASS
            else Result(None, text=text)
            for text, beginning, (score, std, mass) in zip(texts, beginnings, numbers, strict=True)
        ]


def _until_answer(text: str) -> str | None:
    """The response up to and including its last `<answer>`; None where it has none."""
    place = text.rfind(OPEN_TAG)
    return None if place < 0 else text[: place + len(OPEN_TAG)]


def _content(pixels: Tensor) -> bytes:
    """Digest of a resized picture [H, W, 3] uint8."""
    digest = hashlib.sha256(repr(tuple(pixels.shape)).encode())
    digest.update(pixels.contiguous().numpy().tobytes())
    return digest.digest()


def _named(message: str, path: str | None) -> str:
    """The message with the path in front, where it does not name it already."""
    return message if path is None or message.startswith(path) else f"{path}: {message}"
