"""Weights, gradients and optimizer state sharded by DeepSpeed (ZeRO-2 and ZeRO-3).

Only what is DeepSpeed's: its engine is made from our profile, each of a step's passes goes
backwards through it, and its step adds up, clips and updates. Lightning's strategy for DeepSpeed
takes the whole module for one forward pass, which a ranking step is not, and refuses a
CPU; here DeepSpeed's CPU accelerator serves for tests. Weights are float32 (`model.dtype`) and the
passes compute as Lightning's precision states.

Not here: the other ways to shard (`sharding.py`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vqr1.distributed.collectives import (
    all_reduce_max,
    gather_objects_to_rank0,
    get_rank,
    get_world_size,
)
from vqr1.distributed.sharding import Features


def zero_config(stage: int, offload: bool, max_grad_norm: float | None) -> dict[str, Any]:
    """DeepSpeed's configuration of a profile.

    Args:
        stage: 2 or 3.
        offload: optimizer state and master weights in host memory.
        max_grad_norm: clips gradients; None does not.
    """
    zero: dict[str, Any] = {"stage": stage, "contiguous_gradients": True, "overlap_comm": False}
    if stage == 3:
        # Small weights too: their gradients are then all added up in the same manner.
        zero["stage3_param_persistence_threshold"] = 0
    if offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        # The ranking step makes as many passes as it needs, and states when they are done.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": max_grad_norm or 0.0,
        "zero_optimization": zero,
        # The optimiser is ours, wherever its optimizer state is.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


class DeepSpeedSharding:
    """A policy under a DeepSpeed engine (`vqr1.distributed.sharding.Sharding`).

    Args:
        model: the policy on its device; DeepSpeed shards it in place.
        optimizer: made of its parameters; DeepSpeed gives it sharded ones.
        config: of `zero_config`.
        external: modules with weights that are used outside of their own forward pass, whose hooks
            therefore have to unshard them (stage 3): each with the module that uses them.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: dict[str, Any],
        external: Sequence[tuple[nn.Module, nn.Parameter]] = (),
    ) -> None:
        on_cpu = next(model.parameters()).device.type == "cpu"
        if on_cpu:
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed

        if on_cpu:
            # Its exchange by shared memory would be compiled now, which takes a compiler, a minute,
            # and a lock that a killed process leaves. Without it, gloo does all of it.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self._deepspeed = deepspeed
        self._optimizer = optimizer
        self._stage: int = config["zero_optimization"]["stage"]
        deepspeed.init_distributed(dist_init_required=False)
        self.engine: Any
        self.engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=config, dist_init_required=False
        )
        if self._stage == 3:
            for user, weight in external:
                deepspeed.zero.register_external_parameter(user, weight)
        self._passes = 0
        self._finite = True

    @contextmanager
    def unsharded(self) -> Iterator[None]:
        """Put all weights together, without the hooks that would shard them again."""
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            if self._stage == 3:
                from trl.models.utils import add_hooks, remove_hooks

                parameters = list(self.engine.module.parameters())
                stack.enter_context(self._deepspeed.zero.GatheredParameters(parameters))
                remove_hooks(self.engine)
                stack.callback(add_hooks, self.engine)
            yield

    def same_passes(self, passes: int) -> int:
        """The most that any process has to make."""
        return all_reduce_max(passes)

    def zero_grad(self, optimizer: Any) -> None:
        """See `Sharding`."""
        optimizer.zero_grad(set_to_none=True)

    def backward(self, module: Any, loss: Tensor) -> None:
        """Send one pass backwards."""
        self._passes += 1
        self._finite = self._finite and bool(torch.isfinite(loss.detach()))
        # The loss is a sum with the denominators of all processes; DeepSpeed takes the mean.
        self.engine.backward(loss * get_world_size())
        # Otherwise the next pass would replace the gradients of this one (ZeRO-3).
        self.engine.optimizer.clear_backward_seen_flag()

    def backward_vision(self, vision: Features, leaves: Features) -> None:
        """Gradients of the image features, on through the tower."""
        pairs = vision.gradients(leaves)
        if pairs:
            total = torch.stack([(embed * grad).sum() for embed, grad in pairs]).sum()
            # These gradients count the processes already.
            self.backward(None, total / get_world_size())

    def finish_gradients(self, model: nn.Module, limit: float | None) -> float:
        """Clip and update; the norm is that before clipping."""
        passes, finite = self._passes, not all_reduce_max(not self._finite)
        self._passes, self._finite = 0, True
        if not passes:
            # No weight has a gradient and none changes; a schedule asks for the call.
            self._optimizer.step()
            return 0.0
        if not finite:
            # The optimizer state would never get rid of it.
            self.engine.optimizer.zero_grad(set_to_none=True)
            return math.nan
        self.engine.step()
        if self._stage == 3:
            # What a weight's first gradient of the next update is added to, if it comes in a later
            # pass than the first: those of the vision tower do.
            self.engine.optimizer.grad_partitions_flat_buffer.zero_()
        return float(self.engine.get_global_grad_norm())

    def full_weights(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Name and whole value of every weight; all processes have to ask."""
        with self.unsharded():
            yield from model.state_dict().items()

    def close(self) -> None:
        """Let the engine go."""
        self.engine.destroy()

    def optimizer_state(self) -> dict[str, Any]:
        """Every process's share of the optimiser's state, on rank 0."""
        own = [
            {k: v.detach().cpu() if isinstance(v, Tensor) else v for k, v in state.items()}
            for state in (self._optimizer.state[part] for part in self._partitions())
        ]
        shares = gather_objects_to_rank0(own)
        rates = [group["lr"] for group in self._optimizer.param_groups]
        return {} if shares is None else {"stage": self._stage, "shares": shares, "lr": rates}

    def load_optimizer_state(self, saved: Mapping[str, Any]) -> None:
        """Take this process's share back."""
        for group, rate in zip(self._optimizer.param_groups, saved["lr"], strict=True):
            group["lr"] = rate
        own = saved["shares"][get_rank()]
        fused = bool(self._optimizer.param_groups[0].get("fused"))
        for part, state in zip(self._partitions(), own, strict=True):
            self._optimizer.state[part] = {
                # A fused update has its step count on the device too.
                k: v.to(part.device) if isinstance(v, Tensor) and (v.dim() or fused) else v
                for k, v in state.items()
            }

    def _partitions(self) -> list[Tensor]:
        zero = self.engine.optimizer
        parts: list[Tensor] = (
            zero.fp32_partitioned_groups_flat
            if self._stage == 3
            else zero.single_partition_of_fp32_groups
        )
        return parts
