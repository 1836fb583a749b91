"""How the weights of a run are sharded between its ranks, as the ranking step sees it.

`Replicated`: each rank holds the full weights, and gradients are summed once a step
(`collectives.py`). `FullySharded`: every block is sharded by PyTorch's fully_shard (FSDP2): its
weights are unsharded for the length of its forward and backward pass, and its gradient is reduced
and sharded at once. Which blocks, and which weights stay full on every rank (embedding and output
head, which the shared-prompt passes use outside of the model's own forward pass, and a vision tower
that does not train), is the policy's to know: it is handed in as `ShardedModule` records.

All ranks unshard at the same moment. They therefore make the same number of passes
(`same_passes`), and sampling, whose steps differ, happens while the weights are unsharded.

Not here: DeepSpeed (`deepspeed.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from vqr1.device import exact
from vqr1.distributed.collectives import all_reduce_gradients, all_reduce_max, get_rank


@dataclass(frozen=True)
class ShardedModule:
    """One module whose weights are sharded block by block.

    Attributes:
        root: the module; it shards what its blocks leave.
        blocks: submodules, each unsharded for the length of its own passes.
        full: weights that stay full on every rank.
    """

    root: nn.Module
    blocks: Sequence[nn.Module]
    full: frozenset[nn.Parameter] = frozenset()


class Features(Protocol):
    """Image features with history (`vqr1.policy.vision.VisionFeatures`), or their leaves."""

    def gradients(self, leaves: Any) -> list[tuple[Tensor, Tensor]]:
        """Features of each image with the gradient that its leaf has collected, if any."""
        ...

    def backward_from(self, leaves: Any) -> None:
        """Send the gradients that `leaves` have collected through the vision tower."""
        ...


class Sharding(Protocol):
    """What the step needs to know."""

    def unsharded(self) -> Any:
        """Context manager in which every process holds all weights; gradients off."""
        ...

    def same_passes(self, passes: int) -> int:
        """Forward and backward passes to make, at least this process's own `passes`."""
        ...

    def zero_grad(self, optimizer: Any) -> None:
        """Forget the gradients of the last update."""
        ...

    def backward(self, module: Any, loss: Tensor) -> None:
        """Send the loss of one pass backwards.

        Args:
            module: the Lightning module.
            loss: scalar.
        """
        ...

    def backward_vision(self, vision: Features, leaves: Features) -> None:
        """Send the gradients that `leaves` have collected through the vision tower."""
        ...

    def full_weights(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Name and whole value of every weight of the policy; all processes have to ask."""
        ...

    def close(self) -> None:
        """No pass follows any more."""
        ...

    def finish_gradients(self, model: nn.Module, limit: float | None) -> float:
        """Add gradients up over all processes and clip them.

        Args:
            model: the policy; its gradients are changed in place.
            limit: largest norm; None does not clip.

        Returns:
            Norm of all gradients together before clipping; 0 where there are none.
        """
        ...


class _OwnPasses:
    """Backward passes and weights as PyTorch has them."""

    def zero_grad(self, optimizer: Any) -> None:
        """See `Sharding`."""
        optimizer.zero_grad(set_to_none=True)

    def backward(self, module: Any, loss: Tensor) -> None:
        """See `Sharding`; what was computed in float32 has its gradient computed in float32."""
        with exact(loss.device):
            module.manual_backward(loss)

    def backward_vision(self, vision: Features, leaves: Features) -> None:
        """See `Sharding`."""
        vision.backward_from(leaves)

    def full_weights(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """See `Sharding`."""
        for name, value in model.state_dict().items():
            yield name, full_tensor(value)

    def close(self) -> None:
        """Nothing to let go."""


class Replicated(_OwnPasses):
    """Every process holds all weights."""

    @contextmanager
    def unsharded(self) -> Iterator[None]:
        """They are."""
        yield

    def same_passes(self, passes: int) -> int:
        """As many as there are to make."""
        return passes

    def finish_gradients(self, model: nn.Module, limit: float | None) -> float:
        """See `Sharding`."""
        all_reduce_gradients(_trainable(model))
        parameters = [p for p in _trainable(model) if p.grad is not None]
        if not parameters:
            return 0.0
        most = math.inf if limit is None else limit
        return float(torch.nn.utils.clip_grad_norm_(parameters, most))


class FullySharded(_OwnPasses):
    """FSDP2: each rank holds a shard of every block.

    Args:
        modules: what is sharded, on its device and the same on every rank; changed in place.
        half_passes: the passes compute in bfloat16; the shards keep their type.
    """

    def __init__(self, modules: Sequence[ShardedModule], half_passes: bool) -> None:
        policy = MixedPrecisionPolicy(cast_forward_inputs=False)
        if half_passes:
            policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
            )
        self._parts: list[FSDPModule] = []
        for module in modules:
            self._shard(module, policy)

    def _shard(self, sharded: ShardedModule, policy: MixedPrecisionPolicy) -> None:
        # The root comes after its blocks, and takes what they have left.
        modules = [*sharded.blocks, sharded.root]
        for module in modules:
            fully_shard(
                module,
                reshard_after_forward=True,
                mp_policy=policy,
                ignored_params=set(sharded.full),
            )
        # The root first: it is the one that the blocks belong to.
        for part in reversed(modules):
            assert isinstance(part, FSDPModule)
            # The loss is a sum with the denominators of all processes, not a mean of means.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
            self._parts.append(part)

    @contextmanager
    def unsharded(self) -> Iterator[None]:
        """Put all pieces together, and cut them again."""
        for part in self._parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        try:
            with torch.no_grad():
                yield
        finally:
            for part in self._parts:
                part.reshard()
                part.set_reshard_after_forward(True, recurse=False)

    def same_passes(self, passes: int) -> int:
        """The most that any process has to make."""
        return all_reduce_max(passes)

    def finish_gradients(self, model: nn.Module, limit: float | None) -> float:
        """See `Sharding`; the gradients of the pieces are added up already."""
        pieces, wholes = split_parameters(_trainable(model))
        if wholes:
            all_reduce_gradients(wholes)
        gradients = [[p.grad for p in part if p.grad is not None] for part in (pieces, wholes)]
        norms = [torch.nn.utils.get_total_norm(part) for part in gradients if part]
        if not norms:
            return 0.0
        norm = float(torch.stack([full_tensor(part) for part in norms]).norm())
        if limit is not None and math.isfinite(norm):
            scale = min(1.0, limit / (norm + 1e-6))
            for part in filter(None, gradients):
                torch._foreach_mul_(part, scale)
        return norm


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def is_sharded(parameter: nn.Parameter) -> bool:
    """Whether this process holds a piece of it."""
    return isinstance(parameter, DTensor)


def split_parameters(
    parameters: Sequence[nn.Parameter], is_piece: Callable[[nn.Parameter], bool] = is_sharded
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Those of which this process holds a piece, and those that it holds whole."""
    pieces = [p for p in parameters if is_piece(p)]
    return pieces, [p for p in parameters if not is_piece(p)]


def full_tensor(value: Tensor) -> Tensor:
    """The whole of a sharded tensor; all processes have to ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def full_state(value: Any) -> Any:
    """Nested containers with every sharded tensor whole, on rank 0's host.

    The others take part and keep an empty one: eight copies of a large model fit no host.
    """
    if isinstance(value, Mapping):
        return {key: full_state(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(full_state(part) for part in value)
    if not isinstance(value, DTensor):
        return value
    whole = full_tensor(value.detach())
    return whole.cpu() if get_rank() == 0 else whole.new_empty(0, device="cpu")


def shard_like(value: Tensor, target: Tensor) -> Tensor:
    """A full tensor, sharded as another one of its shape is; all processes have to ask."""
    if not isinstance(target, DTensor):
        return value
    return distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
