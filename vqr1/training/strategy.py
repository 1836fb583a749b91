"""Lightning strategy for processes that each hold all weights.

As Lightning's data-parallel strategy, without its wrapper around the module: the wrapper averages
gradients during every backward pass, while a ranking step adds them up once (`ranks.py`).
"""

from __future__ import annotations

import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy


class ReplicatedStrategy(DDPStrategy):
    """Starts and connects the processes, and gives all of them the first one's weights."""

    strategy_name = "replicated"

    def configure_ddp(self) -> None:
        """Send the first process's weights to the others."""
        assert self.model is not None
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            dist.broadcast(tensor.data, src=0)
