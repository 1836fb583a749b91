"""Weights after a few steps of AdamW by two ways that differ in rounding alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

ROUNDED = 1e-6
"""Root of a second moment below which a gradient is rounding: that of a key's bias is zero."""


def second_moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Running means of squared gradients, by the name of the weights; not of sharded ones."""
    state = optimizer.state
    return {
        n: state[p]["exp_avg_sq"]
        for n, p in model.named_parameters(remove_duplicate=False)
        if p in state
    }


def assert_same_steps(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], moments: Mapping[str, Tensor]
) -> None:
    """The same weights after steps of 1e-2: within 2 % of a step.

    AdamW's first steps are the learning rate times g / |g|: where a gradient is rounding, its sign
    is anything, and the weight is not compared.

    Args:
        found: weights by name.
        expected: the same, of the other way.
        moments: `second_moments` of that one.
    """
    for name, weight in expected.items():
        certain = moments[name].sqrt() >= ROUNDED if name in moments else torch.tensor(True)
        torch.testing.assert_close(
            torch.where(certain, found[name], 0.0), torch.where(certain, weight, 0.0),
            rtol=1e-4, atol=2e-4, msg=name,
        )  # fmt: skip
