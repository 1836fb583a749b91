"""An exponential moving average of the trained weights.

    average <- decay average + (1 - decay) policy       after every training step

from the weights that the run begins with, in float32 (Polyak and Juditsky 1992,
doi:10.1137/0330046, with the exponential weights usual today). The policy itself never sees it; it
is part of a checkpoint.

Not here: evaluating and exporting it at the end (`vqr1.training.policy_trainer`).
"""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from vqr1.distributed.collectives import get_rank


class EmaWeights(L.Callback):
    """Keeps the average of a policy whose weights every process holds whole.

    Args:
        decay: share of the old average that stays, in (0, 1).
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._average: dict[str, Tensor] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin with the policy's weights, or continue with the saved average."""
        for name, weight in _trained(pl_module).items():
            kept = self._average.get(name, weight.detach())
            self._average[name] = kept.to(weight.device, torch.float32, copy=True)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any, **__: Any
    ) -> None:
        """Move towards the policy."""
        for name, weight in _trained(pl_module).items():
            self._average[name].lerp_(weight.detach().float(), 1.0 - self.decay)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the average with the policy."""
        kept = self._average if get_rank() == 0 else {}  # rank 0 writes
        checkpoint["average"] = {name: value.cpu() for name, value in kept.items()}

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the kept average; a run that had none until now begins one."""
        self._average = dict(checkpoint.get("average", {}))

    @torch.no_grad()
    def apply(self, module: nn.Module) -> None:
        """Give a policy's module the average in place of its weights."""
        for name, weight in _trained(module).items():
            weight.copy_(self._average[name])


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}
