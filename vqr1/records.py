"""Typed records that the parts hand to each other.

Shape legend, used in the whole package:

    B  images in one ranking batch (on this process)
    K  responses sampled for each image
    P  prompt tokens of one image, its image tokens included (differs between images)
    C  response tokens, padded to the longest response of the batch
    N  vision patches of the whole batch before merging

Records hold data only. They know neither models nor configuration, so every floor may import them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class PromptBatch:
    """B tokenised prompts, each with exactly one image.

    Attributes:
        input_ids: B tensors of shape [P_b], int64, not padded; the image placeholder is already
            expanded to one token per merged vision patch.
        pixel_values: [N, patch_dim] float32 vision patches of all images, image after image.
        image_grid_thw: [B, 3] int64: frames, patch rows and patch columns of each image.
    """

    input_ids: tuple[Tensor, ...]
    pixel_values: Tensor
    image_grid_thw: Tensor

    def __len__(self) -> int:
        return len(self.input_ids)

    def to(self, device: torch.device | str) -> PromptBatch:
        """The same batch with every tensor on `device`."""
        return PromptBatch(
            tuple(ids.to(device) for ids in self.input_ids),
            self.pixel_values.to(device),
            self.image_grid_thw.to(device),
        )

    def select(self, start: int, stop: int) -> PromptBatch:
        """The prompts `start <= b < stop` with their patches."""
        patches = self.image_grid_thw.prod(dim=1).tolist()
        first, last = sum(patches[:start]), sum(patches[:stop])
        return PromptBatch(
            self.input_ids[start:stop],
            self.pixel_values[first:last],
            self.image_grid_thw[start:stop],
        )


@dataclass(frozen=True)
class RankingBatch:
    """B images of ONE data set with their opinion scores: the unit that is ranked.

    Attributes:
        dataset: name of the one data set that all B images come from.
        images: B image names, relative to the data set's image root.
        prompts: their tokenised prompts and vision patches.
        mos: [B] float32 mean opinion score, higher is better, scaled min-max over the whole set
            to [1, 5] (the published training files' scale), or as published (`mos_scale`).
        index: [B] int64 row of each image in its data set's label table.
    """

    dataset: str
    images: tuple[str, ...]
    prompts: PromptBatch
    mos: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> RankingBatch:
        """The same batch with every tensor on `device`."""
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
        tokens: [B, K, C] int64 response tokens, padded behind each response's end.
        mask: [B, K, C] bool, True on the tokens that the policy sampled, its stop token included.
            A response may be empty (all False): a group then has fewer than K responses.
        texts: B lists of K decoded responses, special tokens left out.
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
        well_formed: [B, K] bool, True where the whole response has the demanded format.
        rewards: [B, K] float32 weighted sum of all reward terms.
        terms: each term's unweighted [B, K] reward by name.
        advantages: [B, K] float32 group-normalised rewards.
        has_signal: [B] bool, False for groups whose rewards do not differ; they are left out of
            the update.
    """

    rollout: Rollout
    scores: Tensor
    valid: Tensor
    well_formed: Tensor
    rewards: Tensor
    terms: dict[str, Tensor]
    advantages: Tensor
    has_signal: Tensor


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
