"""The clipped objective of GRPO, and what differs from it by its clips only.

    ratio_t     = exp(log r_t)                                       (`policy_gradient.py`)
    objective_t = min(ratio_t A, clip(ratio_t, 1 - c, 1 + c') A)
    two-sided   : min(ratio_t, d) in the first place, which bounds it where A < 0 too

| method | keys |
|---|---|
| GRPO (arXiv 2402.03300), as in the public VisualQuality-R1 code | the defaults |
| Dr.GRPO (2503.20783) | averaging=dr_grpo, and advantages without a standard deviation |
| DAPO (2503.14476) | averaging=token_mean, clip_high=.28 |
| GSPO (2507.18071) | ratio=sequence, clip=3e-4, clip_high=4e-4 |
| LUSPO (2602.05261) | the same with averaging=response_sum |
| two-sided clip (INTELLECT-2, 2505.07291) | ratio_cap=4 |

exp is bounded (`kl.py`). Shapes: see `vqr1.records`.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from vqr1.config.types import STRICT_KEYS, PositiveFloat
from vqr1.training.losses.kl import bounded_exp
from vqr1.training.losses.policy_gradient import Objective, PolicyGradientLoss, Tokens


@dataclass(config=STRICT_KEYS, kw_only=True, frozen=True)
class GrpoLoss(PolicyGradientLoss):
    """`conf/loss/grpo.yaml` and its relatives."""

    clip: PositiveFloat = 0.2
    """Probability ratios are clipped to [1 - clip, 1 + clip]."""
    clip_high: PositiveFloat | None = None
    """Upper half of the clip, to 1 + clip_high (DAPO .28); null is `clip`."""
    ratio_cap: Annotated[float, Field(gt=1, allow_inf_nan=False)] | None = None
    """Largest ratio where the advantage is negative (two-sided clip); null: any."""

    def objective(self, tokens: Tokens) -> Objective:
        """See the module header."""
        ratio = bounded_exp(tokens.log_ratio)
        high = self.clip if self.clip_high is None else self.clip_high
        clipped = ratio.clamp(1.0 - self.clip, 1.0 + high) * tokens.advantage
        capped = torch.zeros_like(ratio, dtype=torch.bool)
        if self.ratio_cap is not None:
            capped = (ratio > self.ratio_cap) & (tokens.advantage < 0)
            ratio = ratio.clamp(max=self.ratio_cap)
        unclipped = ratio * tokens.advantage
        return Objective(torch.minimum(unclipped, clipped), (clipped < unclipped) | capped)
