"""What the parts of `gpu_check.py` share: the device, models of random weights, results.

Not here: the parts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vqr1.device import passes_in
from vqr1.policy.families import family
from vqr1.policy.fast_layers import use_fast_layers
from vqr1.policy.unwrap import family_of, unwrap
from vqr1.policy.vision import encoding_of
from vqr1.records import PromptBatch

QWEN = family("qwen2_5_vl", "the check")


class Check:
    """The device, its sizes, and the results so far."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.gpu = self.device.type == "cuda"
        self.shape = "3b" if self.gpu else "39m"
        self.large = "7b" if self.gpu else "39m"
        self.good = True

    def line(self, text: str, good: bool = True) -> None:
        """Print a result."""
        self.good = self.good and good
        print(f"  {'ok  ' if good else 'BAD '} {text}", flush=True)

    def model(self, shape: str, dtype: torch.dtype = torch.float32, layers: int = 0) -> Any:
        """Random weights of a shape, of a few layers where asked."""
        config = QWEN.shape_config(shape)
        if layers:
            config.text_config.num_hidden_layers = layers
            config.text_config.layer_types = config.text_config.layer_types[:layers]
        torch.manual_seed(0)
        with self.device:
            model = QWEN.model_class()._from_config(config, dtype=dtype, attn_implementation="sdpa")
        use_fast_layers(model)
        return model.eval()

    def prompts(self, model: Any, images: int, side: int) -> PromptBatch:
        """Prompts of noise images, a few pixels apart in size."""
        core, own, ids, shown = unwrap(model), family_of(model), [], []
        token, encoding = own.image_token(core.config), encoding_of(model)
        factor = encoding.patch * encoding.merge
        for number in range(images):
            edge = (side // factor + number % 2) * factor
            image = torch.randint(0, 256, (side // factor * factor, edge, 3), dtype=torch.uint8)
            count = encoding.tokens(image)
            ids.append(torch.tensor([5] * 9 + [token] * count + [6] * 12))
            shown.append((image.to(self.device),))
        return PromptBatch(tuple(ids), tuple(shown))

    def seconds(self, run: Callable[[], Any], times: int = 3) -> float:
        """The fastest of a few runs."""
        found = []
        for _ in range(times):
            self.wait()
            started = time.perf_counter()
            run()
            self.wait()
            found.append(time.perf_counter() - started)
        return min(found)

    def wait(self) -> None:
        """For the device."""
        if self.gpu:
            torch.cuda.synchronize()

    @contextmanager
    def peak(self, what: str, planned: float | None = None) -> Iterator[None]:
        """Print the most memory that a block had, beside a plan."""
        if not self.gpu:
            yield
            return
        torch.cuda.reset_peak_memory_stats()
        yield
        found = torch.cuda.max_memory_allocated()
        beside = "" if planned is None else f", planned {planned / 2**20:,.0f} MiB"
        good = planned is None or 0.85 <= planned / found <= 1.15
        self.line(f"{what}: {found / 2**20:,.0f} MiB{beside}", good)

    def mixed(self) -> Any:
        """Passes of float32 weights."""
        return passes_in("bf16-mixed", self.device)


def error(found: Tensor, expected: Tensor) -> float:
    """Relative, by norm."""
    return float((found.float() - expected.float()).norm() / expected.float().norm())
