"""Clip-Cov: the clipped objective without some of the tokens that take most of the entropy away.

    objective_t = 0                        for a share of the tokens whose covariance (`masks.py`)
                                           lies within bounds and that no clip binds
    objective_t = that of `grpo.py`        for all others

The public code draws these tokens at random. Here the choice depends on the tokens' own
log-probabilities, by digits of them that are as good as random, so that a run can be repeated: it
is the same in every process and however the step is split.

Source: arXiv 2505.22617 as in verl. Shapes: see `vqr1.records`.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from vqr1.config.types import STRICT_KEYS
from vqr1.training.losses.averaging import Averaging
from vqr1.training.losses.grpo import GrpoLoss
from vqr1.training.losses.masks import largest_tokens, share_of_tokens, token_covariance
from vqr1.training.losses.policy_gradient import Objective, Tokens

_DIGITS = 2.0**12
"""Scale at which a log-probability's fraction has nothing to do with its size."""


@dataclass(config=STRICT_KEYS, kw_only=True, frozen=True)
class ClipCovLoss(GrpoLoss):
    """`conf/loss/clip_cov.yaml`."""

    averaging: Averaging = "token_mean"
    """As of every loss; published: over all tokens."""
    share: Annotated[float, Field(gt=0, le=1)] = 2e-4
    """Share of an image's tokens that is chosen at most; at least one is."""
    lowest: float = 1.0
    """Covariance above which a token may be chosen."""
    highest: float = 5.0
    """Covariance below which a token may be chosen."""

    @model_validator(mode="after")
    def _ordered(self) -> ClipCovLoss:
        if not self.lowest < self.highest:
            raise ValueError(f"lowest={self.lowest}, highest={self.highest}: must rise")
        return self

    def objective(self, tokens: Tokens) -> Objective:
        """See the module header."""
        clipped = super().objective(tokens)
        covariance = token_covariance(tokens.advantage, tokens.logprobs, tokens.used)
        within = (covariance > self.lowest) & (covariance < self.highest)
        candidates = within & tokens.used & ~clipped.bound
        count = share_of_tokens(tokens.used, self.share)
        chosen = largest_tokens(_shuffled(tokens.logprobs), candidates, count)
        kept = (~chosen).to(clipped.value.dtype)
        return Objective(clipped.value * kept, clipped.bound | chosen)


def _shuffled(logprobs: Tensor) -> Tensor:
    """[...] values in [0, 1) that stand in no order with the log-probabilities."""
    return torch.frac((logprobs.detach() * _DIGITS).abs())
