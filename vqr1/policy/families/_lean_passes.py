"""Faster passes of text models that all families share.

A pass stands before a class of the library (`class Fast(LeanRmsNorm, library.RMSNorm)`), whose own
remains for the cases in which nothing is gained.

Not here: the mathematics (`vqr1.policy.fast_layers`), and the classes of the library: of a family
only its own is imported.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from vqr1.policy.fast_layers import fused_rms_norm, rms_norm, swiglu


class LeanRmsNorm:
    """An RMS norm: of float32 on a CPU through `rms_norm`, elsewhere through one kernel."""

    weight: Tensor
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[..., n] -> [..., n]; under autocast in its type.

        Linear layers follow, each of which would cast the rows for itself and keep its copy.
        """
        kind = hidden_states.device.type
        rows: Tensor = self._normalised(hidden_states)
        return rows.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else rows

    def _normalised(self, rows: Tensor) -> Tensor:
        if rows.device.type != "cpu":
            return fused_rms_norm(rows, self.weight, self.variance_epsilon)
        if rows.dtype != torch.float32 or self.weight.dtype != torch.float32:
            result: Tensor = cast(Any, super()).forward(rows)
            return result
        return rms_norm(rows, self.weight, self.variance_epsilon)


class GatedFeedForward:
    """A gated feed-forward layer through `swiglu`."""

    gate_proj: Any
    up_proj: Any
    down_proj: Any

    def forward(self, x: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        out: Tensor = self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))
        return out
