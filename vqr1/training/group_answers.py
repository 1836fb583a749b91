"""What the answers to some images state, as a table of numbers that crosses processes.

Texts, log-probabilities and label words stay in the process that sampled them (`OwnDetails`).

Shapes: see `vqr1.records`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vqr1.iqa.answers import ASKED_RANGE, Answer, ScoreRange
from vqr1.iqa.preferences import StatedPairs
from vqr1.records import BatchLabels, Rollout
from vqr1.rewards import RewardInputs
from vqr1.rewards.base import OwnDetails
from vqr1.rewards.scale import to_reward_scale, to_reward_width


@dataclass(frozen=True)
class GroupAnswers:
    """What K answers to each of some images state, without their texts.

    Attributes:
        scores: [B, K] float32 parsed scores on the asked scale, NaN where not valid.
        format_compliant: [B, K] bool, the response has the required format.
        finished: [B, K] bool, a stop rule ended the response.
        lengths: [B, K] int64 tokens of the response.
        mos: [B] float32 MOS scaled to [1, 5], or as published (`mos_scale`).
        dataset: [B] int64 `label_number` of each image's data set.
        images: [B] int64 row of each image in its set's label table, below 2^24; -1 unknown.
        mos_std: [B] float32 standard deviation on the scale of `mos`; NaN unknown.
        references: [B] int64 `label_number` of each image's reference; -1 unknown.
        attributes: [B, K] float32 of each further attribute of the answer by name, NaN unreadable.
        columns: [B] float32 of each further label column by name, NaN where it is no number.
    """

    scores: Tensor
    format_compliant: Tensor
    finished: Tensor
    lengths: Tensor
    mos: Tensor
    dataset: Tensor
    images: Tensor
    mos_std: Tensor
    references: Tensor
    attributes: Mapping[str, Tensor] = field(default_factory=dict)
    columns: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def valid(self) -> Tensor:
        """[B, K] bool, a score could be parsed."""
        return torch.isfinite(self.scores)

    def table(self) -> Tensor:
        """Everything as [B, (4 + attributes) K + 5 + columns] float32, which holds each exactly."""
        wide = (
            self.scores, self.format_compliant, self.finished, self.lengths,
            *self.attributes.values(),
        )  # fmt: skip
        narrow = (
            self.mos, self.dataset, self.images, self.mos_std, self.references,
            *self.columns.values(),
        )  # fmt: skip
        return torch.cat([part.float() for part in (*wide, *(n[:, None] for n in narrow))], dim=1)

    def from_table(self, table: Tensor) -> GroupAnswers:
        """The inverse of `table`, of rows with the attributes and columns of these."""
        width = 5 + len(self.columns)
        scores, format_compliant, finished, lengths, *attributes = table[:, :-width].chunk(
            4 + len(self.attributes), dim=1
        )
        mos, dataset, images, mos_std, references, *columns = table[:, -width:].unbind(dim=1)
        return GroupAnswers(
            scores, format_compliant.bool(), finished.bool(), lengths.long(), mos,
            dataset.long(), images.long(), mos_std, references.long(),
            dict(zip(self.attributes, attributes, strict=True)),
            dict(zip(self.columns, columns, strict=True)),
        )  # fmt: skip


def read_answers(
    answers: Sequence[Sequence[Answer]],
    rollout: Rollout,
    mos: Tensor,
    dataset: str,
    images: Tensor | None = None,
    labels: BatchLabels | None = None,
) -> GroupAnswers:
    """What this process's parsed answers state; the other arguments as in `score_rollout`."""
    device, unknown = rollout.tokens.device, torch.full((len(mos),), -1)
    names = answers[0][0].attributes if answers else {}
    numbers = {} if labels is None else labels.columns
    return GroupAnswers(
        scores=_numbers([[a.score for a in row] for row in answers], device),
        format_compliant=torch.tensor(
            [[a.format_compliant for a in row] for row in answers], device=device
        ),
        finished=rollout.finished,
        lengths=rollout.lengths,
        mos=mos.to(device),
        dataset=torch.full((len(mos),), label_number(dataset), device=device),
        images=(unknown if images is None else images).to(device),
        mos_std=(torch.full((len(mos),), math.nan) if labels is None else labels.std).to(device),
        references=_label_numbers(unknown, labels).to(device),
        attributes={
            name: _numbers([[a.attributes[name] for a in row] for row in answers], device)
            for name in names
        },
        columns={name: _numbers(values, device) for name, values in numbers.items()},
    )


def _numbers(values: Sequence[Any], device: torch.device) -> Tensor:
    """float32 tensor of (lists of) numbers; NaN for what is none."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(one) for one in value]
        return value if isinstance(value, int | float) else math.nan

    return torch.tensor(plain(list(values)), dtype=torch.float32, device=device)


def _label_numbers(unknown: Tensor, labels: BatchLabels | None) -> Tensor:
    if labels is None:
        return unknown
    return torch.tensor([-1 if r is None else label_number(r) for r in labels.references])


def reward_inputs(
    answers: GroupAnswers,
    score_range: ScoreRange = ASKED_RANGE,
    mos_range: ScoreRange = ASKED_RANGE,
    own: OwnDetails | None = None,
    preferences: Tensor | None = None,
) -> RewardInputs:
    """What rewards are given of some answers, all of one data set.

    Args:
        answers: of a comparison pool, or of this process.
        score_range: scale of the scores.
        mos_range: scale of the MOS.
        own: texts and log-probabilities of this process's responses.
        preferences: [B, B] as in `RewardInputs`.
    """
    known = bool((answers.images >= 0).all())
    return RewardInputs(
        scores=to_reward_scale(answers.scores, score_range),
        valid=answers.valid,
        format_compliant=answers.format_compliant,
        mos=to_reward_scale(answers.mos, mos_range),
        images=answers.images if known else None,
        mos_std=to_reward_width(answers.mos_std, mos_range),
        references=answers.references,
        lengths=answers.lengths,
        attributes={
            name: to_reward_scale(values, score_range)
            for name, values in answers.attributes.items()
        },
        columns=answers.columns,
        preferences=preferences,
        own=own,
    )


def stated_preferences(answers: GroupAnswers, pairs: StatedPairs) -> Tensor:
    """[B, B] float32 preferences between the images of a pool; NaN where nothing is stated."""
    block = pairs.block(answers.images.cpu().numpy())
    return torch.from_numpy(block).to(answers.scores)


def own_details(
    answers: Sequence[Sequence[Answer]], rollout: Rollout, labels: BatchLabels | None
) -> OwnDetails:
    """Texts, log-probabilities and label words of this process's responses."""
    nobody = (None,) * len(answers)
    return OwnDetails(
        texts=rollout.texts,
        reasoning=[[a.reasoning for a in row] for row in answers],
        distortions=nobody if labels is None else labels.distortions,
        references=nobody if labels is None else labels.references,
        columns={} if labels is None else labels.columns,
        logprobs=rollout.logprobs,
        mask=rollout.mask,
    )


def label_number(text: str) -> int:
    """A number of 24 bits that distinguish texts and that float32 holds exactly."""
    return zlib.crc32(text.encode()) & 0xFFFFFF
