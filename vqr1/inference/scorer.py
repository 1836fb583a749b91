"""Images to scores or descriptions, batch by batch.

| mode | score | std |
|---|---|---|
| `greedy` | the number in the likeliest answer | none |
| `expected` | expectation over the probabilities of the numbers that the answer may be, after greedy reasoning where the prompt asks for it | of that distribution (`vqr1.policy.expected_score`) |
| `levels` | expectation over the first tokens of the words of levels, in one pass (forms with `answer.levels`) | of that distribution (`vqr1.policy.level_score`) |
| `sampled` | mean of the valid ones among N sampled answers | unbiased, over the valid ones; none for fewer than two |

An image's result depends on its pixels, the weights and the settings only, up to floating-point
rounding: batch size, order, neighbours and repetition do not enter, and the random numbers of
sampled answers come from the seed and the image's content. An answer from which no score can be
read is invalid and its score is None. In mode `expected` an answer is invalid where no `<answer>`
begins, or where the numbers of the grammar (`vqr1.iqa.number_grammar`) have less than half of the
probability there; the rest of the probability is each result's `lost`, in mode `levels` too.

A prompt about several images (`prompt.images`) takes a tuple or list of images where others take one image:
`scorer.score([("first.png", "second.png")])`. A `free` prompt gives descriptions: text without a score.

Not here: who answers (`vqr1.inference.backends`), comparing images (`vqr1.inference.compare`), the
command line (`vqr1.cli.score`), MOS and metrics (`vqr1.evaluation`).
"""  # noqa: E501 - a table row cannot be broken

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from vqr1.config import EvalModeConfig, PromptConfig
from vqr1.counted import counted
from vqr1.data.prompts import ResizeRule, image_groups
from vqr1.errors import DataError
from vqr1.inference.answers import read_reply
from vqr1.inference.backends import Backend
from vqr1.inference.images import (
    ImageGroup,
    ImageSource,
    beside_references,
    members,
    open_image,
    split_images,
)
from vqr1.inference.reading import ImageReader, ReadGroup, content_key
from vqr1.inference.request import Reply, build_request
from vqr1.inference.result import Result
from vqr1.iqa.answers import AnswerForm, ScoreRange


class Scorer:
    """Scores or describes images with one backend, one prompt and one mode.

    Several scorers may share a backend.

    Args:
        backend: who answers, such as `LocalBackend(policy, model_config)`.
        prompt: what the model is asked.
        answer: how answers are written and read; a form without scores gives descriptions.
        mode: how an answer becomes a score.
        seed: seed of sampled answers.
        batch_size: images computed together.

    Raises:
        ConfigError: image sizes or prompt text that the processor cannot use.
        ModelError: the model or its server cannot be used.
    """

    def __init__(
        self,
        backend: Backend,
        prompt: PromptConfig,
        answer: AnswerForm,
        mode: EvalModeConfig,
        *,
        seed: int = 0,
        batch_size: int = 16,
    ) -> None:
        self._backend = backend
        self._rule = mode.score_rule
        self._batch_size = batch_size
        self._request = build_request(mode, prompt, answer, seed)
        backend.prepare(self._request)

    @property
    def images(self) -> int:
        """Images that one prompt is about."""
        return self._request.prompt.images

    @property
    def score_range(self) -> ScoreRange:
        """Lowest and highest score that the prompt asks for."""
        return self._request.answer.score_range

    def reasoning(self, result: Result) -> str | None:
        """The reasoning in a result's text alone; None where there is none."""
        return None if result.text is None else self._request.answer.parse(result.text).reasoning

    def score(
        self,
        images: ImageSource | Iterable[ImageGroup],
        references: ImageSource | Iterable[ImageSource] | None = None,
    ) -> list[Result]:
        """Results of images in their order.

        Args:
            images: one image or several: paths, bytes of files, Pillow images, arrays [H, W, 3],
                tensors [3, H, W], or one tensor [N, 3, H, W], RGB in [0, 1]; with a prompt about
                several images tuples or lists of them, each with one result.
            references: with a prompt of two images, the undistorted one that is shown before each
                image: one for all, or as many as there are images.

        Raises:
            DataError: a tensor that is no image, or another number of images than the prompt takes.
                Images that do not decode do not raise; their result carries the error.
            ModelError: the model or its server cannot be used any more.
        """
        return list(self.stream(images, references))

    def stream(
        self,
        images: ImageSource | Iterable[ImageGroup],
        references: ImageSource | Iterable[ImageSource] | None = None,
    ) -> Iterator[Result]:
        """As `score`, result by result: `images` may be an endless iterator."""
        if references is not None and self.images != 2:
            raise DataError(
                f"references were given, and the prompt {self._request.prompt.name!r} is about "
                f"{counted(self.images, 'image')}; use a prompt for two, such as "
                "full_reference"
            )
        groups = (
            split_images(images) if references is None else beside_references(images, references)
        )
        # What is made one by one may wait for the result before it.
        made = isinstance(images, Sequence | Tensor)
        with ImageReader(self._backend.resize, self._batch_size, at_once=made) as reader:
            for batch in reader.batches(map(self._checked, groups)):
                yield from self._batch(batch)

    def _batch(self, images: Sequence[ReadGroup]) -> list[Result]:
        """Results of one batch; equal images are computed once and get the same result."""
        pixels = {image.key: image.pixels for image in images if image.error is None}
        found = self._replies(pixels)
        return [
            replace(self._read(found[image.key], image.name), decoded_at=image.decoded_at)
            if image.error is None
            else Result(image.name, error=_named(image.error, image.name))
            for image in images
        ]

    def _checked(self, image: ImageGroup) -> ImageGroup:
        group = members(image)
        if len(group) != self.images:
            raise DataError(
                f"{counted(len(group), 'image')} for one prompt: prompt.images="
                f"{self.images} of them are asked about together; give "
                + ("references, or tuples of images" if self.images > 1 else "one image each")
            )
        return image

    def resize(self, image: ImageSource) -> Tensor:
        """[H, W, 3] uint8 pixels that the model will see of an image; safe in any thread.

        Raises:
            DataError: it does not decode, or is too narrow.
        """
        return self._backend.resize(open_image(image))

    @property
    def rule(self) -> ResizeRule:
        """How images are resized."""
        return self._backend.rule

    def score_resized(self, pixels: Sequence[Tensor | Sequence[Tensor]]) -> list[Result]:
        """Results of one batch of images as `resize` gives them; the path of each is None.

        Raises:
            DataError: another number of images than the prompt takes.
            ModelError: the model or its server cannot be used any more.
        """
        groups = image_groups(pixels, self._request.prompt.images)
        keys = [content_key(group) for group in groups]
        found = self._replies(dict(zip(keys, groups, strict=True)))
        return [self._read(found[key], None) for key in keys]

    def _replies(self, pixels: Mapping[bytes, Sequence[Tensor]]) -> dict[bytes, Reply]:
        replies = self._backend.reply(list(pixels.values()), self._request)
        return dict(zip(pixels, replies, strict=True))

    def _read(self, reply: Reply, path: str | None) -> Result:
        """What a reply states of an image."""
        text = reply.texts[0] if reply.texts else None
        if reply.error is not None:
            return Result(path, error=_named(reply.error, path))
        if not self._request.answer.scored:
            return Result(path, valid=bool((text or "").strip()), text=text)
        if self._request.expected:
            valid = reply.score is not None
            return Result(path, reply.score, reply.std, reply.lost, valid=valid, text=text)
        answers = read_reply(reply, self._request).scores
        scores = [score for score in answers if score is not None]
        enough = len(answers) if self._rule == "all_valid" else 1
        counted = Result(path, text=text, answers=len(answers), valid_answers=len(scores))
        if len(scores) < enough:
            return counted
        return replace(
            counted,
            score=statistics.fmean(scores),
            std=statistics.stdev(scores) if len(scores) > 1 else None,
            valid=True,
        )


def _named(message: str, path: str | None) -> str:
    """The message with the path in front, where it does not name it already."""
    return message if path is None or message.startswith(path) else f"{path}: {message}"
