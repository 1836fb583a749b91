"""Typed records that the parts hand to each other.

Shape legend, used in the whole package:

    B  prompts in one ranking batch (on this process), of one to four images each
    K  responses sampled for each prompt
    P  tokens of one prompt, its images' tokens included (differs between prompts)
    C  response tokens, padded to the longest response of the batch

Records hold data only. They know neither models nor configuration, so every floor may import them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from vqr1.device import to_device
from vqr1.row_names import row_name

_T = TypeVar("_T")


@dataclass(frozen=True)
class PromptBatch:
    """B tokenised prompts, each with its images.

    Attributes:
        input_ids: B tensors of shape [P_b], int64, not padded; image placeholders are already
            expanded to their images' tokens. They stay on the host, where positions are counted.
        images: of each of B prompts, in the prompt's order, its images: tensors of shape [H, W, 3],
            uint8, in the size that the model takes. Whoever runs a model encodes them.
        keys: likewise, digests of what the model makes of each image, by which its features are
            found again and its samples are drawn; None where they have not been computed ahead.
    """

    input_ids: tuple[Tensor, ...]
    images: tuple[tuple[Tensor, ...], ...]
    keys: tuple[tuple[bytes, ...], ...] | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def flat_images(self) -> tuple[Tensor, ...]:
        """The images of all prompts, one prompt after the other."""
        return tuple(image for images in self.images for image in images)

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.images[0][0].device

    def to(self, device: torch.device | str) -> PromptBatch:
        """The same batch with the images on `device`."""
        place = torch.device(device)
        return replace(self, images=map_once(lambda image: to_device(image, place), self.images))

    def select(self, start: int, stop: int) -> PromptBatch:
        """The prompts `start <= b < stop`."""
        return self.choose(range(len(self))[start:stop])

    def choose(self, numbers: Sequence[int]) -> PromptBatch:
        """Some of the prompts, in the given order."""
        return PromptBatch(
            tuple(self.input_ids[b] for b in numbers),
            tuple(self.images[b] for b in numbers),
            None if self.keys is None else tuple(self.keys[b] for b in numbers),
        )

    def __reduce__(self) -> Any:
        # Each tensor that goes to another process takes a file descriptor and a message of its own.
        distinct = list({id(image): image for image in self.flat_images}.values())
        number = {id(image): i for i, image in enumerate(distinct)}
        places = [[number[id(image)] for image in images] for images in self.images]
        flat = torch.cat([image.reshape(-1) for image in distinct])
        sizes = [tuple(image.shape) for image in distinct]
        lengths = [len(ids) for ids in self.input_ids]
        return _unpack, (torch.cat(self.input_ids), lengths, flat, sizes, places, self.keys)


def joined_prompts(batches: Sequence[PromptBatch]) -> PromptBatch:
    """One batch of the prompts of several, in their order; keys are not kept."""
    return PromptBatch(
        tuple(ids for batch in batches for ids in batch.input_ids),
        tuple(images for batch in batches for images in batch.images),
    )


def map_once(
    change: Callable[[Tensor], _T], groups: Sequence[Sequence[Tensor]]
) -> tuple[tuple[_T, ...], ...]:
    """What `change` makes of every tensor; one that comes several times is changed once."""
    changed: dict[int, _T] = {}
    for tensor in (tensor for group in groups for tensor in group):
        if id(tensor) not in changed:
            changed[id(tensor)] = change(tensor)
    return tuple(tuple(changed[id(tensor)] for tensor in group) for group in groups)


def _unpack(
    ids: Tensor,
    lengths: list[int],
    flat: Tensor,
    sizes: list[tuple[int, ...]],
    places: list[list[int]],
    keys: tuple[tuple[bytes, ...], ...] | None,
) -> PromptBatch:
    """The batch that `PromptBatch.__reduce__` took apart; its tensors are views."""
    counts = [math.prod(size) for size in sizes]
    distinct = [part.view(size) for part, size in zip(flat.split(counts), sizes, strict=True)]
    images = tuple(tuple(distinct[i] for i in numbers) for numbers in places)
    return PromptBatch(ids.split(lengths), images, keys)


@dataclass(frozen=True)
class BatchLabels:
    """What the label files state of B images beside their MOS, for rewards that look at it.

    Attributes:
        std: [B] float32 standard deviation of the single ratings on the scale of the MOS; NaN where
            the set has none.
        references: names of the undistorted images that the B images derive from, or None.
        distortions: kinds of distortion, or None.
        columns: B values of each further label column by name, None where one is empty.
    """

    std: Tensor
    references: tuple[str | None, ...]
    distortions: tuple[str | None, ...]
    columns: Mapping[str, tuple[float | str | None, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class RankingBatch:
    """B rows of ONE data set with their MOS, or of one task: the unit that is ranked or answered.

    Attributes:
        dataset: name of the one data set that all B rows come from.
        images: of each of B rows, the names of its images, relative to the data set's image root.
        prompts: their tokenised prompts and resized images.
        mos: [B] float32 Mean opinion score, higher is better, scaled min-max over the whole set
            to [1, 5] (the published training files' scale), or as published (`mos_scale`).
        index: [B] int64 row in the data set's label table.
        labels: what else the labels state; None where nobody has read it.
        row_names: how the data set names the rows; empty: after their images.
        decoded_at: of each of B rows, width and height (`6000x5000`) that an image with too many
            pixels was decoded at (of several images that of each, `whole + 6000x5000`), or None;
            empty where all were decoded whole.
        task: name of the auxiliary task that the prompts are of; what is right stands in `labels`,
            the MOS are NaN, and `index` numbers the task's items. Empty: images are asked for their
            score.
    """

    dataset: str
    images: tuple[tuple[str, ...], ...]
    prompts: PromptBatch
    mos: Tensor
    index: Tensor
    labels: BatchLabels | None = None
    row_names: tuple[str, ...] = ()
    decoded_at: tuple[str | None, ...] = ()
    task: str = ""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def names(self) -> tuple[str, ...]:
        """A name of each of B rows: the set's, or after its images (`row_name`)."""
        return self.row_names or tuple(map(row_name, self.images))

    def to(self, device: torch.device | str) -> RankingBatch:
        """The same batch with images, scores and rows on `device`."""
        return replace(
            self,
            prompts=self.prompts.to(device),
            mos=self.mos.to(device),
            index=self.index.to(device),
        )


@dataclass(frozen=True)
class Rollout:
    """K sampled responses for each of B prompts.

    Attributes:
        tokens: [B, K, C] int64 response tokens, padded after each response's end.
        mask: [B, K, C] bool, True on the tokens that the policy sampled, its stop token included.
            A response may be empty (all False): a group then has fewer than K responses.
        texts: B lists of K decoded responses, special tokens excluded.
        finished: [B, K] bool, True where a stop rule ended the response, False where the length
            limit cut it.
        logprobs: [B, K, C] float32 natural log-probabilities that the sampling engine gave the
            tokens at its temperature (before top-k and top-p cuts), or None when the engine
            reports none.
    """

    tokens: Tensor
    mask: Tensor
    texts: list[list[str]]
    finished: Tensor
    logprobs: Tensor | None = None

    @property
    def lengths(self) -> Tensor:
        """[B, K] int64 number of sampled tokens."""
        return self.mask.sum(dim=-1)

    def to(self, device: torch.device | str) -> Rollout:
        """The same responses with their tensors on `device`."""
        return replace(
            self,
            tokens=self.tokens.to(device),
            mask=self.mask.to(device),
            finished=self.finished.to(device),
            logprobs=None if self.logprobs is None else self.logprobs.to(device),
        )


@dataclass(frozen=True)
class ScoredRollout:
    """A rollout whose answers have been parsed and rewarded.

    Attributes:
        rollout: the sampled responses.
        scores: [B, K] float32 parsed scores, NaN where the answer could not be parsed.
        valid: [B, K] bool, True where a score could be parsed.
        format_compliant: [B, K] bool, True where the whole response has the required format.
        rewards: [B, K] float32 weighted sum of all reward terms.
        terms: each term's unweighted [B, K] reward by name.
        advantages: [B, K] float32, of the advantage rule (`conf/advantage`); of a rule with F
            fields [B, K, F], and [B, K, C] once they are given to the fields' tokens.
        has_variance: [B] bool, False for groups whose rewards do not differ, or that the advantage
            rule gives no advantages (`trained_groups`); they are excluded from the update.
    """

    rollout: Rollout
    scores: Tensor
    valid: Tensor
    format_compliant: Tensor
    rewards: Tensor
    terms: dict[str, Tensor]
    advantages: Tensor
    has_variance: Tensor


@dataclass(frozen=True)
class LossOutput:
    """What the loss function returns; every entry but `loss` is detached.

    Attributes:
        loss: [] float32 scalar to minimise.
        policy_loss: [] the clipped policy-gradient part.
        kl: [] mean k3 estimate of KL(policy || reference) per token, in nats.
        clip_fraction: [] share of response tokens whose ratio the clip bound.
    """

    loss: Tensor
    policy_loss: Tensor
    kl: Tensor
    clip_fraction: Tensor
