"""The frozen reference policy that the KL term holds on to.

The cheapest there is: none at KL weight 0, the policy with its adapters off, else a second set of
weights, on the device, in host memory, or sharded over the devices of all processes. A second set
can follow the policy now and then.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from vqr1.config import ReferencePlace
from vqr1.policy.loading import vision_trains


class Reference(Protocol):
    """Gives the reference model for the length of a `with` block."""

    shares_vision: bool
    """True when the reference's vision tower has the policy's current weights, so that image
    features computed for the policy serve the reference too."""

    def weights(self) -> Any:
        """Context manager that yields the reference model, gradients off."""
        ...


class FrozenCopy:
    """A second set of weights, as the policy was when training began.

    Where it is sharded, all processes call every method together.

    Args:
        model: the policy on its device.
        vision_frozen: its tower does not train.
        place: where the copy lies between its passes: on the device, in host memory, or sharded: a
            shard of each weight on each process's device.
        half: its passes run under autocast in bfloat16: the weights of linear layers, which they
            would cast at every use, are kept in it.

    Attributes:
        model: the copy.
        device: where passes compute.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        vision_frozen: bool,
        place: ReferencePlace = "device",
        half: bool = False,
    ) -> None:
        # Copied weight by weight: for a float32 copy of all there may be no room.
        memo = {id(p): _in_half(p) for p in linear_weights(model)} if half else {}
        self.model = copy.deepcopy(model, memo).requires_grad_(False).eval()
        self.shares_vision = vision_frozen
        self.device = next(model.parameters()).device
        self._shards: dict[str, DTensor] = {}
        if place == "sharded" and dist.is_initialized():
            mesh = init_device_mesh(self.device.type, (dist.get_world_size(),))
            for name, weight in self.model.named_parameters():
                self._shards[name] = distribute_tensor(weight.data, mesh, [Shard(0)])
                weight.data = weight.data.new_empty(0)
        elif place == "host":
            for tensor in self._tensors().values():
                kept = tensor.data.cpu()
                tensor.data = kept.pin_memory() if self.device.type == "cuda" else kept

    def _tensors(self) -> dict[str, Tensor]:
        return {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}

    def _whole(self, name: str, kept: Tensor) -> Tensor:
        """A weight as passes need it."""
        if name in self._shards:
            return self._shards[name].full_tensor()
        return kept.to(self.device, non_blocking=True)

    @contextmanager
    def weights(self) -> Iterator[torch.nn.Module]:
        """Yield the copy."""
        tensors = self._tensors()
        kept = {name: tensor.data for name, tensor in tensors.items()}
        try:
            for name, tensor in tensors.items():
                tensor.data = self._whole(name, kept[name])
            with torch.no_grad():
                yield self.model
        finally:
            # Nothing has changed, so nothing has to be put back.
            for name, tensor in tensors.items():
                tensor.data = kept[name]

    def follow(self, weights: Iterable[tuple[str, Tensor]], share: float) -> None:
        """Move towards the policy: reference = (1 - share) reference + share policy.

        Args:
            weights: name and whole value of the policy's weights.
            share: 1 takes the policy's weights as they are.
        """
        own = dict(self.model.named_parameters())
        for name, value in weights:
            # A head that is the embedding too comes under two names.
            if name not in own:
                continue
            shard = self._shards.get(name)
            if shard is None:
                own[name].data.lerp_(value.detach().to(own[name]), share)
            else:
                target = value.detach().to(shard.device, shard.dtype)
                shard.lerp_(distribute_tensor(target, shard.device_mesh, [Shard(0)]), share)

    def state(self) -> dict[str, Tensor]:
        """The weights by name, for a checkpoint: a shard of each where the copy is sharded."""
        named = self.model.named_parameters()
        return {name: self._shards.get(name, weight.data) for name, weight in named}


class AdapterOff:
    """The policy itself with its adapters switched off: no second set of weights."""

    shares_vision = True  # adapters sit in the text model only, and nothing else trains

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model

    @contextmanager
    def weights(self) -> Iterator[torch.nn.Module]:
        """Yield the policy without its adapters."""
        with torch.no_grad(), self.model.disable_adapter():  # type: ignore[operator]
            yield self.model


def linear_weights(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """float32 weights and biases that linear layers alone use; tied ones are an embedding's too."""
    used: dict[int, list[bool]] = {}
    weights = {}
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            used.setdefault(id(weight), []).append(isinstance(module, torch.nn.Linear))
            weights[id(weight)] = weight
    return [
        weight
        for key, weight in weights.items()
        if all(used[key]) and weight.dtype == torch.float32
    ]


def _in_half(weight: torch.nn.Parameter) -> torch.nn.Parameter:
    return torch.nn.Parameter(weight.detach().to(torch.bfloat16), requires_grad=False)


def make_reference(
    model: torch.nn.Module,
    kl_weight: float,
    place: ReferencePlace = "device",
    *,
    half: bool = False,
) -> Reference | None:
    """The cheapest reference for a policy at the beginning of training.

    Args:
        model: the policy, frozen parts frozen and adapters added.
        kl_weight: weight of the KL term; at 0 there is nothing to refer to.
        place: where a second set of weights lies between its passes.
        half: see `FrozenCopy`.
    """
    if kl_weight == 0:
        return None
    trains = vision_trains(model)
    if hasattr(model, "disable_adapter") and not trains:
        return AdapterOff(model)
    return FrozenCopy(model, vision_frozen=not trains, place=place, half=half)
