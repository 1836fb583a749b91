"""What passes on any device share: the precision they compute in, and tensors sent to a device.

Not here: where a run's devices come from (`vqr1.distributed`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

HALF = "bf16-mixed"
"""`hardware.precision` of passes that compute in bfloat16 under autocast."""


def exact(device: torch.device) -> AbstractContextManager[object]:
    """Inside the block operations compute in the types that they are given, whatever autocast.

    Under autocast a matrix product of float32 rows is one of bfloat16 rows; mathematics that is
    written in float32 (log-sum-exps, gradients) would lose five digits of eight.
    """
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def passes_in(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The context in which passes of `hardware.precision` run, the same in every command.

    Args:
        precision: `bf16-mixed` computes under autocast, everything else in the weights' type.
        device: where the passes compute.
    """
    if precision != HALF:
        return nullcontext()
    # As Lightning's plugin: kept casts would be those of weights that an update has changed.
    return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host, such as row numbers or images, on a device that is not waited for."""
    if tensor.device.type != "cpu" or device.type == "cpu":
        return tensor.to(device)
    if torch.cuda.is_available():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
