"""Times of one contestant's process."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Clock:
    """Seconds spent in named phases, step by step.

    `cpu` is the processor time of all threads, which other programs on the machine do not lengthen;
    `linear` the part of `total` inside layers of linear attention (`linear.py`), of models that
    have such.
    """

    inside: Any = None

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self._phases: dict[str, float] = defaultdict(float)
        self._begun = 0.0
        self._busy = 0.0

    def begin(self) -> None:
        """Starts a step."""
        self._phases = defaultdict(float)
        self._begun = now()
        self._busy = time.process_time()
        if self.inside is not None:
            self.inside.seconds = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the block's time to a phase of the current step."""
        started = now()
        try:
            yield
        finally:
            self._phases[name] += now() - started

    def end(self) -> None:
        """Ends a step; what no phase claimed is `rest`."""
        total = now() - self._begun
        rest = total - sum(self._phases.values())
        busy = time.process_time() - self._busy
        step = {**self._phases, "rest": rest, "total": total, "cpu": busy}
        if self.inside is not None:
            step["linear"] = self.inside.seconds
        self.steps.append(step)


def now() -> float:
    """Seconds, after everything that was sent to the accelerator is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
