"""Lightning strategies: processes that each hold all weights, or a piece of them.

As Lightning's data-parallel strategy, without its wrapper around the module: the wrapper averages
gradients during every backward pass, while a ranking step adds them up once (`ranks.py`).
Lightning's own strategy for FSDP2 takes the whole module for one forward pass, which a ranking step
is not; how the pieces are used is in `division.py`. Checkpoints hold whole weights and moments in
every case.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy

from vqr1.training.agreement import from_first
from vqr1.training.checkpoint_files import CheckpointNotWrittenError
from vqr1.training.division import Sharded, divide_like, whole_state
from vqr1.training.grpo import GrpoModule


class ReplicatedStrategy(DDPStrategy):
    """Starts and connects the processes, and gives all of them the first one's weights."""

    strategy_name = "replicated"

    def configure_ddp(self) -> None:
        """Send the first process's weights to the others."""
        assert self.model is not None
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            dist.broadcast(tensor.data, src=0)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None
    ) -> None:
        """The first process writes.

        Raises:
            CheckpointNotWrittenError: in all processes, where it could not.
        """
        from_first(
            lambda: self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options),
            (CheckpointNotWrittenError,),
        )


class ShardedStrategy(ReplicatedStrategy):
    """Every process holds a piece of each block (FSDP2).

    Args:
        half_passes: the passes compute in bfloat16.
    """

    strategy_name = "sharded"

    def __init__(self, half_passes: bool) -> None:
        super().__init__()
        self._half_passes = half_passes

    def configure_ddp(self) -> None:
        """Cut the weights, which are the first process's in all of them, into pieces."""
        super().configure_ddp()
        module = self.lightning_module
        assert isinstance(module, GrpoModule)
        module.division = Sharded(module.model, self._half_passes)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole weights, in the first process."""
        state: dict[str, Any] = whole_state(super().lightning_module_state_dict())
        return state

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Whole moments, in the first process."""
        state: dict[str, Any] = whole_state(super().optimizer_state(optimizer))
        return state

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Cut whole moments as the weights are cut."""
        cut = []
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            state = {i: divide_like(values, parameters[i]) for i, values in saved["state"].items()}
            cut.append({**saved, "state": state})
        super().load_optimizer_state_dict({**checkpoint, "optimizer_states": cut})
