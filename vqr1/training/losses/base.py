"""What a loss receives and what it must be.

A loss of your own needs no change here: a subclass of `PolicyLoss`, named by `_target_` in a YAML
file under `conf/loss/`. It is called once for each micro-batch; the token weights hold the
averaging rule and are computed once for the step of all ranks, so that micro-batches add up.
Shapes: see `vqr1.records`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from vqr1.records import LossOutput
from vqr1.training.losses.averaging import Averaging


@dataclass(frozen=True)
class LossInputs:
    """Everything a loss may look at: some images of one step, with all their responses.

    Log-probabilities are those of the sampled tokens, in nats; outside `mask` they may hold
    anything.

    Attributes:
        logprobs: [B, K, C] under the policy being trained, with gradient.
        old: [B, K, C] under the policy before the step's first update, no gradient.
        sampler: [B, K, C] as the engine that sampled reported them; None where it reports none.
        reference: [B, K, C] under the frozen reference; None without one (`kl_weight` 0).
        mask: [B, K, C] bool, the sampled tokens of groups that take part in the update.
        advantages: [B, K] of each response, or [B, K, C] of each token.
        weights: [B, K, C] of `token_weights`, of the whole step's tokens: 0 outside `mask`.
        importance: [B, K, C] factors of the policy loss against an engine that samples from a
            slightly other policy (`vqr1.training.importance_sampling`); None is 1.
        lengths: [B, K] int64 tokens of each response.
        entropies: [B, K, C] float32 entropies, in nats, of the distributions that the tokens were
            drawn from, under the policy being trained, no gradient; None unless the loss asks for
            them (`PolicyLoss.needs_entropies`).
        fields: [B, K, C] bool tokens of each field of the answer that the loss asks for
            (`PolicyLoss.fields`), by name; empty where it asks for none.
        kl_share: share of `kl_weight` that the step uses (`loss.kl_until`), in [0, 1].
    """

    logprobs: Tensor
    old: Tensor
    sampler: Tensor | None
    reference: Tensor | None
    mask: Tensor
    advantages: Tensor
    weights: Tensor
    importance: Tensor | None
    lengths: Tensor
    entropies: Tensor | None = None
    fields: Mapping[str, Tensor] = field(default_factory=dict)
    kl_share: float = 1.0


class PolicyLoss(ABC):
    """A loss of the policy on the tokens that it sampled.

    Attributes:
        averaging: how token losses are averaged.
        kl_weight: weight of a KL term to the reference, a key of the loss's YAML; at 0 no reference
            is kept and `LossInputs.reference` is None.
        fields: names of the answer's fields (`AnswerForm.spans`) that `LossInputs.fields` holds.
    """

    averaging: Averaging = "response_mean"
    kl_weight: float = 0.0
    fields: ClassVar[tuple[str, ...]] = ()

    @property
    def needs_entropies(self) -> bool:
        """Whether `LossInputs.entropies` are computed; a class of one's own may set it to True."""
        return False

    @abstractmethod
    def __call__(self, inputs: LossInputs) -> LossOutput:
        """The loss of some images of a step.

        Returns:
            Sums over these images: they add up to the loss of the step. `loss` is a [] tensor with
            gradient; `kl` and `clip_fraction` are weighted by `LossInputs.weights`.
        """
