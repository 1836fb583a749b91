"""The frozen reference policy that the KL term holds on to."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch

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
    """A second set of weights, as the policy was when training began."""

    def __init__(self, model: torch.nn.Module, *, vision_frozen: bool) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.shares_vision = vision_frozen

    @contextmanager
    def weights(self) -> Iterator[torch.nn.Module]:
        """Yield the copy."""
        with torch.no_grad():
            yield self.model


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


def make_reference(model: torch.nn.Module, kl_weight: float) -> Reference | None:
    """The cheapest reference for a policy at the beginning of training.

    Args:
        model: the policy, frozen parts frozen and adapters added.
        kl_weight: weight of the KL term; at 0 there is nothing to refer to.
    """
    if kl_weight == 0:
        return None
    if hasattr(model, "disable_adapter"):
        return AdapterOff(model)
    return FrozenCopy(model, vision_frozen=not vision_trains(model))
