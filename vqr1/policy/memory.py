"""The most memory that this process has held."""

from __future__ import annotations

import resource
import sys

import torch


def peak_memory_mib(device: torch.device | str) -> float:
    """Peak in MiB: allocated by PyTorch on a GPU, resident in host memory for other devices."""
    kind = torch.device(device)
    if kind.type == "cuda":
        return torch.cuda.max_memory_allocated(kind) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
