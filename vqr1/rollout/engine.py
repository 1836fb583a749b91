"""What every rollout engine does: sample K responses for each of B prompts.

The training step, validation and scoring know this protocol only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

from torch import nn

from vqr1.config import SamplingConfig
from vqr1.policy.vision import VisionFeatures
from vqr1.records import PromptBatch, Rollout


class SamplingEngine(Protocol):
    """Samples responses: all that evaluation needs."""

    def sample(
        self,
        prompts: PromptBatch,
        *,
        group_size: int,
        sampling: SamplingConfig,
        seed: int,
        vision: VisionFeatures | None = None,
    ) -> Rollout:
        """Samples `group_size` responses for every prompt.

        Args:
            prompts: B prompts.
            group_size: K, at least 1.
            sampling: how a response is drawn; every parameter counts, nothing is inherited.
            seed: the same seed and weights give an image the same responses, whatever other images
                are in the batch (up to float rounding).
            vision: features of the B images under the same weights, if already computed.

        Returns:
            B x K responses.
        """
        ...


@runtime_checkable
class ScoringEngine(Protocol):
    """Scores images without an answer."""

    def scores(self, prompts: PromptBatch) -> list[float]:
        """The score of each of B prompts' images, on the scale of the answer form."""
        ...

    def synchronise(self) -> None:
        """See `RolloutEngine.synchronise`."""
        ...

    def with_model(self, model: nn.Module) -> Self:
        """See `RolloutEngine.with_model`."""
        ...


class RolloutEngine(SamplingEngine, Protocol):
    """Samples responses from a policy that is trained."""

    def synchronise(self) -> None:
        """Takes over the policy's current weights, which are full in every process.

        Called by all processes at the same point, after every update and before whatever samples
        next.
        """
        ...

    def with_model(self, model: nn.Module) -> Self:
        """The engine of another policy of the same shape, in place of this one."""
        ...


@dataclass(frozen=True)
class UnderWay:
    """Responses that are sampled elsewhere.

    Attributes:
        wait: waits for them. It raises what `sample` raises, and `RolloutLostError` wherever the
            engine does not have those weights any more.
        cancel: nobody will wait: what has not begun yet is not sampled.
    """

    wait: Callable[[], Rollout]
    cancel: Callable[[], None]


@runtime_checkable
class OverlappingEngine(RolloutEngine, Protocol):
    """Samples elsewhere, so that the policy can be updated meanwhile."""

    def begin(
        self, prompts: PromptBatch, *, group_size: int, sampling: SamplingConfig, seed: int
    ) -> UnderWay:
        """Starts to sample, by the weights of the last `synchronise`; arguments as of `sample`.

        Nobody may call `synchronise` before all processes have their responses.
        """
        ...
