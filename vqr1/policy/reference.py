"""The frozen reference policy that the KL term holds on to.

The cheapest there is: none at KL weight 0, the policy with its adapters off, else a second set of
weights, on the device or in host memory. A second set can follow the policy now and then.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

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

    Args:
        model: the policy on its device.
        vision_frozen: its tower does not train.
        on_host: the copy lies in host memory and comes to the device for the length of a pass.

    Attributes:
        model: the copy.
        device: where passes compute.
    """

    def __init__(
        self, model: torch.nn.Module, *, vision_frozen: bool, on_host: bool = False
    ) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.shares_vision = vision_frozen
        self.device = next(model.parameters()).device
        self._on_host = on_host
        if on_host:
            for tensor in self._tensors():
                kept = tensor.data.cpu()
                tensor.data = kept.pin_memory() if self.device.type == "cuda" else kept

    def _tensors(self) -> list[Tensor]:
        return [*self.model.parameters(), *self.model.buffers()]

    @contextmanager
    def weights(self) -> Iterator[torch.nn.Module]:
        """Yield the copy."""
        kept = [tensor.data for tensor in self._tensors()] if self._on_host else []
        try:
            if self._on_host:
                for tensor in self._tensors():
                    tensor.data = tensor.data.to(self.device, non_blocking=True)
            with torch.no_grad():
                yield self.model
        finally:
            # Nothing has changed on the device, so nothing has to be copied back.
            for tensor, data in zip(self._tensors(), kept, strict=self._on_host):
                tensor.data = data

    def follow(self, weights: Iterable[tuple[str, Tensor]], share: float) -> None:
        """Move towards the policy: reference = (1 - share) reference + share policy.

        Args:
            weights: name and whole value of the policy's weights.
            share: 1 takes the policy's weights as they are.
        """
        own = dict(self.model.named_parameters())
        for name, value in weights:
            # A head that is the embedding too comes under two names.
            if name in own:
                own[name].data.lerp_(value.detach().to(own[name]), share)

    def state(self) -> dict[str, Tensor]:
        """The weights by name, on the host, for a checkpoint."""
        return {name: p.detach().cpu().clone() for name, p in self.model.named_parameters()}


class AdapterOff:
    """The policy itself with its adapters switched off: no second set of weights."""

    shares_vision = True  # adapters sit in the text model only

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model

    @contextmanager
    def weights(self) -> Iterator[torch.nn.Module]:
        """Yield the policy without its adapters."""
        with torch.no_grad(), self.model.disable_adapter():  # type: ignore[operator]
            yield self.model


def make_reference(
    model: torch.nn.Module, kl_weight: float, on_host: bool = False
) -> Reference | None:
    """The cheapest reference for a policy at the beginning of training.

    Args:
        model: the policy, frozen parts frozen and adapters added.
        kl_weight: weight of the KL term; at 0 there is nothing to refer to.
        on_host: a second set of weights lies in host memory between its passes.
    """
    if kl_weight == 0:
        return None
    if hasattr(model, "disable_adapter"):
        return AdapterOff(model)
    return FrozenCopy(model, vision_frozen=not vision_trains(model), on_host=on_host)
