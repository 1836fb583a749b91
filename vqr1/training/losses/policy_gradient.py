"""What the losses of sampled tokens have in common: masks, importance, KL, and sums over tokens.

    loss = sum_t w_t (-m_t objective_t + beta s kl_t)

objective_t is a subclass's own (`grpo.py`, `cispo.py`, `sapo.py`, ...), of the log-ratio

    log r_t = logprob_t - old_logprob_t                       ratio=token
    log r_t = mean of the response's log-ratios, in value     ratio=sequence

(GSPO, arXiv 2507.18071), whose gradient is that of token t in both cases. m_t is the importance
weight of `vqr1.training.importance_sampling`, times the masks of `masks.py`; a masked token keeps
its place in the averages, and its KL. The weights w_t hold the averaging rule (`averaging.py`).
kl_t is one of the estimators of `kl.py`, s the step's share of its weight (`kl_share`).

Shapes: see `vqr1.records`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from vqr1.config.types import STRICT_KEYS, NonNegativeFloat, PositiveFloat
from vqr1.records import LossOutput
from vqr1.training.losses.averaging import Averaging
from vqr1.training.losses.base import LossInputs, PolicyLoss
from vqr1.training.losses.kl import KL_ESTIMATORS, KlEstimator
from vqr1.training.losses.masks import high_entropy_tokens, on_policy_responses

RatioLevel = Literal["token", "sequence"]


@plain_dataclass(frozen=True)
class Tokens:
    """What an objective is computed from; 0 outside `used`.

    Attributes:
        logprobs: [B, K, C] under the policy being trained, with gradient.
        log_ratio: [B, K, C] log r of the module header, with gradient.
        advantage: [B, K, 1] of each response, or [B, K, C] of each token.
        used: [B, K, C] bool, the tokens that count.
        importance: [B, K, C] importance weights against the sampler; None is 1.
    """

    logprobs: Tensor
    log_ratio: Tensor
    advantage: Tensor
    used: Tensor
    importance: Tensor | None


@plain_dataclass(frozen=True)
class Objective:
    """What a subclass maximises.

    Attributes:
        value: [B, K, C] with gradient, before masks and importance weights.
        bound: [B, K, C] bool, tokens whose ratio a clip bound, or whose gradient a rule changed.
        corrected: importance weights are in `value` already.
    """

    value: Tensor
    bound: Tensor
    corrected: bool = False


def token_ratio(log_ratio: Tensor, used: Tensor) -> Tensor:
    """[B, K, C] log-ratios as they are."""
    return log_ratio


def sequence_ratio(log_ratio: Tensor, used: Tensor) -> Tensor:
    """[B, K, C] mean log-ratio of each response, with the gradient of each token's own.

    Args:
        log_ratio: [B, K, C], 0 outside `used`.
        used: [B, K, C] bool.
    """
    mean = log_ratio.sum(dim=2, keepdim=True) / used.sum(dim=2, keepdim=True).clamp_min(1)
    return torch.where(used, mean.detach() + log_ratio - log_ratio.detach(), log_ratio)


RATIOS: Mapping[RatioLevel, Callable[[Tensor, Tensor], Tensor]] = {
    "token": token_ratio,
    "sequence": sequence_ratio,
}


@dataclass(config=STRICT_KEYS, kw_only=True, frozen=True)
class PolicyGradientLoss(PolicyLoss):
    """Keys that every loss of this folder has."""

    averaging: Averaging = "response_mean"
    """How token losses are averaged: mean in each response then over responses (published),
    over all tokens (`token_mean`), the sum over tokens divided by the length limit (`dr_grpo`), or
    the sum in each response then the mean over responses (`response_sum`)."""
    kl_weight: NonNegativeFloat = 0.0
    """beta: weight of the estimate of KL(policy || reference); 0 needs no reference."""
    kl: KlEstimator = "k3"
    """Estimator of the KL: k3 (published), k2, or k1, whose expected gradient is 0."""
    ratio: RatioLevel = "token"
    """Probability ratios of each token, or of a whole response (`sequence`, GSPO)."""
    entropy_quantile: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of an image's tokens, those of lowest entropy, that have no policy loss; null: none."""
    off_policy_limit: PositiveFloat | None = None
    """Responses of negative advantage whose mean log-probability per token has fallen by more than
    this since they were sampled have no policy loss; null: all have."""

    @property
    def needs_entropies(self) -> bool:
        """Entropies choose the tokens of `entropy_quantile`."""
        return self.entropy_quantile is not None

    @abstractmethod
    def objective(self, tokens: Tokens) -> Objective:
        """What is maximised at each token."""

    def __call__(self, inputs: LossInputs) -> LossOutput:
        """See `PolicyLoss` and the module header."""
        weights, used = inputs.weights, inputs.weights > 0
        logprobs = torch.where(used, inputs.logprobs, torch.zeros_like(inputs.logprobs))
        old = torch.where(used, inputs.old, torch.zeros_like(inputs.old))
        importance = inputs.importance
        if importance is not None:
            importance = torch.where(used, importance, torch.zeros_like(importance))
        advantages = inputs.advantages
        advantage = advantages if advantages.ndim == 3 else advantages[:, :, None]
        log_ratio = RATIOS[self.ratio](logprobs - old, used)
        found = self.objective(Tokens(logprobs, log_ratio, advantage, used, importance))
        value = found.value
        if importance is not None and not found.corrected:
            value = value * importance
        for mask in self._masks(inputs, advantage, used):
            value = value * mask.to(value.dtype)
        policy_loss = -(weights * value).sum()
        kl = torch.zeros((), device=logprobs.device)
        if inputs.reference is not None:
            reference = torch.where(used, inputs.reference, logprobs)
            kl = (weights * KL_ESTIMATORS[self.kl](logprobs, reference)).sum()
        return LossOutput(
            loss=policy_loss + self.kl_weight * inputs.kl_share * kl,
            policy_loss=policy_loss.detach(),
            kl=kl.detach(),
            clip_fraction=(weights * found.bound.float()).sum().detach(),
        )

    def _masks(self, inputs: LossInputs, advantage: Tensor, used: Tensor) -> list[Tensor]:
        """Tokens that keep their policy loss, bool masks that broadcast to [B, K, C]."""
        masks = []
        if self.entropy_quantile is not None:
            assert inputs.entropies is not None, "a step computes what a loss asks for"
            masks.append(high_entropy_tokens(inputs.entropies, used, self.entropy_quantile))
        if self.off_policy_limit is not None:
            sampled = inputs.old if inputs.sampler is None else inputs.sampler
            masks.append(
                on_policy_responses(
                    advantage, inputs.logprobs, sampled, used, self.off_policy_limit
                )
            )
        return masks
