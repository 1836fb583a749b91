"""Lightning strategies: ranks that each hold the full weights, or a shard of them.

As Lightning's data-parallel strategy, without its wrapper around the module: the wrapper averages
gradients during every backward pass, while a ranking step sums them once
(`vqr1.distributed.collectives`). Lightning's own strategy for FSDP2 takes the whole module for one
forward pass, which a ranking step is not; how the shards are used is in
`vqr1.distributed.sharding`. Each rank writes its own shards of a checkpoint under FSDP2
(`checkpoint_shards.py`); in all other cases rank 0 writes full weights and optimizer state.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from vqr1.distributed.collectives import broadcast_from_rank0, get_rank, get_world_size
from vqr1.distributed.deepspeed import DeepSpeedSharding, zero_config
from vqr1.distributed.environment import get_local_rank
from vqr1.distributed.shard_files import (
    StoredTensor,
    bytes_of,
    read_shards,
    write_shards,
)
from vqr1.distributed.sharding import FullySharded, full_state, shard_like
from vqr1.durable import make_folder
from vqr1.policy.sharded_modules import external_weights, sharded_modules
from vqr1.training.checkpoint_files import (
    CheckpointNotWrittenError,
    check_room,
    load_checkpoint,
)
from vqr1.training.checkpoint_shards import SHARDS, remove_unnamed, take_tensors
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
        # A reference may be sharded where the policy is not.
        checkpoint = full_state(checkpoint)
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
        self._shards: dict[Path, str] = {}

    def configure_ddp(self) -> None:
        """Shard the weights, which are rank 0's in all of them."""
        super().configure_ddp()
        module = self.lightning_module
        assert isinstance(module, StageModule)
        module.shard(FullySharded(sharded_modules(module.model), self._half_passes))

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Each rank reads what its shards take."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """This rank's shards; tied weights are one tensor with two names."""
        assert self.lightning_module is not None
        state: dict[str, Any] = self.lightning_module.state_dict(keep_vars=True)
        return state

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None
    ) -> None:
        """Each rank writes its shards, then rank 0 what names them.

        Raises:
            CheckpointNotWrittenError: in all processes, where one could not.
        """
        place = Path(filepath).parent
        content, taken = take_tensors(checkpoint, checkpoint["global_step"])
        try:
            content[SHARDS] = {
                name: self._written(place / name) or write_folder(tensors, place / name)
                for name, tensors in taken.items()
            }
            super().save_checkpoint(content, filepath, storage_options)
        except CheckpointNotWrittenError:
            if get_rank() == 0:
                remove_unnamed(place)
            raise
        self._shards = {place / name: digest for name, digest in content[SHARDS].items()}

    def _written(self, folder: Path) -> str | None:
        """The digest of a folder that the last checkpoint names too, so that it is not rewritten.

        The best weights are those of the step that is saved after its validation.
        """
        found = self._shards.get(folder)
        return found if broadcast_from_rank0(folder.is_dir) else None

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Everything but the tensors of a sharded run, which are read into their shards."""
        path = Path(checkpoint_path)
        content = load_checkpoint(path, mapped=True)
        self._shards = {path.parent / k: v for k, v in content.get(SHARDS, {}).items()}
        return content

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take the weights, saved by any number of ranks or as full ones.

        Raises:
            RuntimeError: they are of another model.
        """
        assert self.lightning_module is not None
        targets = self.lightning_module.state_dict(keep_vars=True)
        saved = checkpoint["state_dict"]
        if targets.keys() != saved.keys():
            differ = sorted(targets.keys() ^ saved.keys())
            raise RuntimeError(f"{len(differ)} weights of another model, {differ[0]} first")
        _fill({name: (target, saved[name]) for name, target in targets.items()})

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Shard optimizer state as the weights are."""
        pairs: dict[str, tuple[Tensor, Any]] = {}
        states: list[dict[str, Any]] = []
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            state: dict[int, dict[str, Any]] = {}
            for i, values in saved["state"].items():
                state[i] = {k: _empty(value, parameters[i]) for k, value in values.items()}
                pairs |= {f"{len(states)}.{i}.{k}": (state[i][k], values[k]) for k in values}
            states.append({**saved, "state": state})
        _fill(pairs)
        super().load_optimizer_state_dict({**checkpoint, "optimizer_states": states})


def write_folder(tensors: dict[str, Tensor], folder: Path) -> str:
    """Write shards into a folder that begins empty; the digest of its index.

    Raises:
        CheckpointNotWrittenError: in all processes, where one could not.
    """

    def prepare() -> None:
        try:
            if folder.exists():
                shutil.rmtree(folder)
            make_folder(folder)
            check_room(bytes_of(tensors), folder)
        except OSError as error:
            raise CheckpointNotWrittenError(f"{folder}: {error.strerror or error}") from error

    broadcast_from_rank0(prepare, (CheckpointNotWrittenError,))
    try:
        return write_shards(tensors, folder)
    except OSError as error:
        raise CheckpointNotWrittenError(f"{folder}: {error.strerror or error}") from error


def _empty(saved: Any, parameter: torch.nn.Parameter) -> Any:
    """Takes a saved value of a parameter's optimizer state, sharded as the parameter is."""
    if not isinstance(saved, StoredTensor | Tensor):
        return saved
    if tuple(saved.shape) != tuple(parameter.shape):
        return torch.zeros(tuple(saved.shape), dtype=saved.dtype)
    return torch.zeros_like(parameter, dtype=saved.dtype, requires_grad=False)


@torch.no_grad()
def _fill(pairs: Mapping[str, tuple[Any, Any]]) -> None:
    """Fill tensors, each by what was saved of it; all ranks do so together."""
    stored: dict[Path, dict[str, tuple[Tensor, StoredTensor]]] = {}
    for target, saved in pairs.values():
        if isinstance(saved, StoredTensor):
            stored.setdefault(saved.folder, {})[saved.name] = (target, saved)
        elif isinstance(saved, Tensor):
            target.copy_(shard_like(saved, target))
    for found in stored.values():
        targets = {name: target for name, (target, _) in found.items()}
        read_shards(targets, [saved for _, saved in found.values()])


class ZeroStrategy(ReplicatedStrategy):
    """DeepSpeed shards gradients and optimizer state (stage 2), or weights too (stage 3).

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
        """Nothing: DeepSpeed has updated when the gradients were finished."""
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
