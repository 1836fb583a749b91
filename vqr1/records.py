"""Typed records that the parts hand to each other.

Shape legend, used in the whole package:

    B  images in one ranking batch (on this process)
    K  responses sampled for each image
    P  prompt tokens of one image, its image tokens included (differs between images)
    C  response tokens, padded to the longest response of the batch

Records hold data only. They know neither models nor configuration, so every floor may import them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class PromptBatch:
    """B tokenised prompts, each with exactly one image.

    Attributes:
        input_ids: B tensors of shape [P_b], int64, not padded; the image placeholder is already
            expanded to the image's tokens. They stay on the host, where positions are counted.
        images: B tensors of shape [H_b, W_b, 3], uint8: the images in the size that the model
            takes. Whoever runs a model encodes them.
        keys: B digests of what the model makes of each image, by which its features are found
            again and its samples are drawn; None where they have not been computed ahead.
    """

    input_ids: tuple[Tensor, ...]
    images: tuple[Tensor, ...]
    keys: tuple[bytes, ...] | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.images[0].device

    def to(self, device: torch.device | str) -> PromptBatch:
        """The same batch with the images on `device`."""
        return replace(self, images=tuple(image.to(device) for image in self.images))

    def select(self, start: int, stop: int) -> PromptBatch:
        """The prompts `start <= b < stop`."""
        return self.choose(range(len(self))[start:stop])

    def choose(self, numbers: Sequence[int]) -> PromptBatch:
        """The prompts of some images, in the given order."""
        return PromptBatch(
            tuple(self.input_ids[b] for b in numbers),
            tuple(self.images[b] for b in numbers),
            None if self.keys is None else tuple(self.keys[b] for b in numbers),
        )

    def __reduce__(self) -> Any:
        # Each tensor that goes to another process takes a file descriptor and a message of its own.
        flat = torch.cat([image.reshape(-1) for image in self.images])
        sizes = [tuple(image.shape) for image in self.images]
        lengths = [len(ids) for ids in self.input_ids]
        return _unpack, (torch.cat(self.input_ids), lengths, flat, sizes, self.keys)


def _unpack(
    ids: Tensor,
    lengths: list[int],
    flat: Tensor,
    sizes: list[tuple[int, ...]],
    keys: tuple[bytes, ...] | None,
) -> PromptBatch:
    """The batch that `PromptBatch.__reduce__` took apart; its tensors are views."""
    counts = [math.prod(size) for size in sizes]
    images = [part.view(size) for part, size in zip(flat.split(counts), sizes, strict=True)]
    return PromptBatch(ids.split(lengths), tuple(images), keys)


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
    """B images of ONE data set with their MOS: the unit that is ranked.

    Attributes:
        dataset: name of the one data set that all B images come from.
        images: B image names, relative to the data set's image root.
        prompts: their tokenised prompts and resized images.
        mos: [B] float32 Mean opinion score, higher is better, scaled min-max over the whole set
            to [1, 5] (the published training files' scale), or as published (`mos_scale`).
        index: [B] int64 row of each image in its data set's label table.
        labels: what else the labels state; None where nobody has read it.
    """

    dataset: str
    images: tuple[str, ...]
    prompts: PromptBatch
    mos: Tensor
    index: Tensor
    labels: BatchLabels | None = None

    def __len__(self) -> int:
        return len(self.images)

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
