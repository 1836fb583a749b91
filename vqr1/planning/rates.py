"""Rates of a device, measured: of large matrix products, and of its memory."""

from __future__ import annotations

import time
from typing import Any

import torch

from vqr1.policy.cpu_linear import fast_linears_help

COPY_BYTES = 2**29
"""Size of the copies that measure the memory: larger than any cache."""


def _now() -> float:
    """Seconds, after everything that was sent to the accelerator is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _rate(product: Any, size: int, repeats: int) -> float:
    product()
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        product()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def peak_rates(
    device: torch.device, dtype: torch.dtype, size: int | None = None
) -> dict[str, float]:
    """Best measured rate of large square matrix products, in operations a second.

    Args:
        device: where to measure.
        dtype: type of the matrices.
        size: edge of the matrices; by default 2048 on a CPU and 8192 elsewhere.

    Returns:
        `matmul`: PyTorch's own product. `fast_linear`: oneDNN's, where `use_fast_linears` uses it.
    """
    size = size or (2048 if device.type == "cpu" else 8192)
    a = torch.randn(size, size, device=device, dtype=dtype)
    b = torch.randn(size, size, device=device, dtype=dtype)
    rates = {"matmul": _rate(lambda: a @ b, size, 10)}
    if device.type == "cpu" and fast_linears_help():
        product = torch.ops.mkldnn._linear_pointwise
        rates["fast_linear"] = _rate(lambda: product(a, b, None, "none", [], ""), size, 10)
    return rates


def copy_rate(device: torch.device, repeats: int = 10) -> float:
    """Bytes a second that a large copy reads and writes together; the best of several."""
    source = torch.ones(COPY_BYTES // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(repeats):
        started = _now()
        target.copy_(source)
        best = min(best, _now() - started)
    return 2 * COPY_BYTES / best
