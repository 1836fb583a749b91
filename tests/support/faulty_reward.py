"""A reward that can be made to fail: a class of a user's own, given by `_target_`."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import torch
from torch import Tensor

from vqr1.rewards import RewardInputs


class FaultyReward:
    """Earns nothing; a file `<folder>/<job>` that states `raise` or `kill` is obeyed once."""

    ranks = False

    def __init__(self, folder: str, job: int) -> None:
        self.order = Path(folder) / str(job)

    def __call__(self, inputs: RewardInputs) -> Tensor:
        if self.order.is_file():
            what = self.order.read_text().strip()
            self.order.unlink()
            if what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError(f"asked to fail:\nby {self.order.name}")
        return torch.zeros_like(inputs.scores)
