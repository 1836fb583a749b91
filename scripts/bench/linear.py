"""Time inside layers of linear attention, forwards and backwards, of either side's model.

Not here: the clock of a step (`clock.py`).
"""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor

from bench.clock import Clock, now
from vqr1.policy.unwrap import family_of, parts_of
from vqr1.rollout.decode import Decoder


class Inside:
    """Seconds inside watched calls; calls within calls count once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0
        self._begun = 0.0

    def enter(self) -> None:
        """A watched call begins."""
        if not self._depth:
            self._begun = now()
        self._depth += 1

    def leave(self) -> None:
        """A watched call ends."""
        self._depth -= 1
        if not self._depth:
            self.seconds += now() - self._begun

    def watch(self, owner: Any, name: str, *, backwards: bool = False) -> None:
        """Times a method of a class; with `backwards` its backward pass too."""
        plain = getattr(owner, name)

        @functools.wraps(plain)
        def timed(module: Any, *args: Any, **kwargs: Any) -> Any:
            self.enter()
            try:
                found = plain(module, *args, **kwargs)
            finally:
                self.leave()
            given = kwargs.get("hidden_states", args[0] if args else None)
            if backwards and isinstance(found, Tensor) and found.requires_grad:
                # The layer's nodes run between the gradient of its result and its argument's.
                found.register_hook(lambda _: self.enter())
                assert given is not None
                given.register_hook(lambda _: self.leave())
            return found

        setattr(owner, name, timed)


def watch_linear_layers(model: Any, clock: Clock) -> None:
    """Adds the time inside a model's layers of linear attention to a clock; nothing without any."""
    family = family_of(model)
    found = [family.linear_layer(layer) for layer in parts_of(model).text_layers]
    kinds = {type(module) for module in found if module is not None}
    if not kinds:
        return
    clock.inside = inside = Inside()
    for kind in kinds:
        inside.watch(kind, "forward", backwards=True)
        for name in ("delta_rows", "output"):
            if hasattr(kind, name):
                inside.watch(kind, name)
    inside.watch(Decoder, "_recur")
