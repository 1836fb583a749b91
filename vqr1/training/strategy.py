"""Lightning strategies: ranks that each hold the full weights, or a shard of them.

As Lightning's data-parallel strategy, without its wrapper around the module: the wrapper averages
gradients during every backward pass, while a ranking step sums them once
(`vqr1.distributed.collectives`). Lightning's own strategy for FSDP2 takes the whole module for one
forward pass, which a ranking step is not; how the shards are used is in
`vqr1.distributed.sharding`. Checkpoints hold full weights and optimizer state in every case.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from lightning.fabric.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy

from vqr1.distributed.collectives import broadcast_from_rank0, get_rank, get_world_size
from vqr1.distributed.deepspeed import DeepSpeedSharding, zero_config
from vqr1.distributed.environment import get_local_rank
from vqr1.distributed.sharding import FullySharded, full_state, shard_like
from vqr1.policy.sharded_modules import external_weights, sharded_modules
from vqr1.training.checkpoint_files import CheckpointNotWrittenError
from vqr1.training.stages.module import StageModule


class ConnectedEnvironment(TorchElasticEnvironment):
    """The processes as they have connected: one that runs alone has no variables of torchrun."""

    def world_size(self) -> int:
        """How many there are."""
        return get_world_size()

    def global_rank(self) -> int:
        """This process's number."""
        return get_rank()

    def local_rank(self) -> int:
        """Its number on its node."""
        return get_local_rank() if get_world_size() > 1 else 0


class ReplicatedStrategy(DDPStrategy):
    """Starts and connects the processes, and gives all of them the first one's weights."""

    strategy_name = "replicated"

    def configure_ddp(self) -> None:
        """Send rank 0's weights to the others."""
        assert self.model is not None
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            dist.broadcast(tensor.data, src=0)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None
    ) -> None:
        """Rank 0 writes.

        Raises:
            CheckpointNotWrittenError: in all processes, where it could not.
        """
        broadcast_from_rank0(
            lambda: self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options),
            (CheckpointNotWrittenError,),
        )


class ShardedStrategy(ReplicatedStrategy):
    """Every process holds a shard of each block (FSDP2).

    Args:
        half_passes: the passes compute in bfloat16.
    """

    strategy_name = "sharded"

    def __init__(self, half_passes: bool) -> None:
        super().__init__()
        self._half_passes = half_passes

    def configure_ddp(self) -> None:
        """Shard the weights, which are rank 0's in all of them."""
        super().configure_ddp()
        module = self.lightning_module
        assert isinstance(module, StageModule)
        module.shard(FullySharded(sharded_modules(module.model), self._half_passes))

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Full weights, on rank 0."""
        state: dict[str, Any] = full_state(super().lightning_module_state_dict())
        return state

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Full optimizer state, on rank 0."""
        state: dict[str, Any] = full_state(super().optimizer_state(optimizer))
        return state

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Shard full optimizer state as the weights are."""
        sharded = []
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            state = {i: shard_like(values, parameters[i]) for i, values in saved["state"].items()}
            sharded.append({**saved, "state": state})
        super().load_optimizer_state_dict({**checkpoint, "optimizer_states": sharded})


class ZeroStrategy(ReplicatedStrategy):
    """DeepSpeed divides gradients and optimizer state (stage 2), or weights too (stage 3).

    Args:
        stage: 2 or 3.
        offload: optimizer state in host memory.
        max_grad_norm: clips gradients; None does not.
    """

    strategy_name = "zero"

    def __init__(self, stage: int, offload: bool, max_grad_norm: float | None) -> None:
        super().__init__()
        self._config = zero_config(stage, offload, max_grad_norm)
        self._sharding: DeepSpeedSharding | None = None

    def setup_optimizers(self, trainer: Any) -> None:
        """Make the optimiser, and the engine of policy and optimiser."""
        super().setup_optimizers(trainer)
        module = self.lightning_module
        assert isinstance(module, StageModule)
        self._sharding = DeepSpeedSharding(
            module.model, self.optimizers[0], self._config, external_weights(module.model)
        )
        module.shard(self._sharding)

    def optimizer_step(self, optimizer: Any, closure: Any, model: Any = None, **kwargs: Any) -> Any:
        """Nothing: the division has updated when the gradients were finished."""
        return closure()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Full weights, on rank 0."""
        if self._sharding is None:
            return super().lightning_module_state_dict()
        with self._sharding.unsharded():
            state = super().lightning_module_state_dict()
            return {k: v.detach().cpu().clone() for k, v in state.items() if get_rank() == 0}

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """The shares of all processes, on rank 0."""
        assert self._sharding is not None
        return self._sharding.optimizer_state()

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Each process takes its share."""
        assert self._sharding is not None
        self._sharding.load_optimizer_state(checkpoint["optimizer_states"][0])

    def teardown(self) -> None:
        """Leave the weights where they are: the shards are gathered after the fit."""
        if self._sharding is None:
            super().teardown()
            return
        self.precision_plugin.teardown()
        assert self.accelerator is not None
        self.accelerator.teardown()
        self.checkpoint_io.teardown()
