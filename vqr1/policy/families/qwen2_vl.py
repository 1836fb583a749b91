"""Qwen2-VL (arXiv 2409.12191): 2B and 7B Instruct.

Not here: what it has in common with Qwen2.5-VL, which is all but the tower (`qwen2_5_vl.py`): full
attention in every block, and feed-forward layers without a gate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from vqr1.data.prompts import ResizeRule
from vqr1.policy.families._qwen_tower import full_attention_cost
from vqr1.policy.families.qwen2_5_vl import Qwen25VL
from vqr1.policy.tower_cost import TowerCost


class Qwen2VL(Qwen25VL):
    """See the module's header; signatures are explained in `base.py`."""

    title = "Qwen2-VL"
    architecture = "Qwen2VLForConditionalGeneration"
    released = {  # noqa: RUF012 (a class variable of the base)
        "Qwen/Qwen2-VL-2B-Instruct": "2b",
        "Qwen/Qwen2-VL-7B-Instruct": "7b",
    }
    shapes = ("36m", "2b", "7b")

    def fast_layers(self) -> Mapping[type[nn.Module], type[nn.Module]]:
        """Norms and feed-forward layers of the text model, patch embedding and attention."""
        from vqr1.policy.families._qwen2_vl_layers import FAST_LAYERS

        return FAST_LAYERS

    def shape_config(self, shape: str, number: Callable[[str], int] = lambda token: 0) -> Any:
        """Of a released checkpoint, or of a small one for CPUs."""
        from vqr1.policy.families._qwen2_5_vl_shapes import qwen2_vl_config

        return qwen2_vl_config(shape, number)

    def tower_cost(self, config: Any, rule: ResizeRule, size: tuple[int, int] | None) -> TowerCost:
        """Full attention, a feed-forward layer without a gate, a merger."""
        vision = config.vision_config
        return full_attention_cost(
            vision,
            rule,
            size,
            width=vision.embed_dim,
            inner=vision.embed_dim * vision.mlp_ratio,
            out=vision.hidden_size,
            mergers=1,
        )


FAMILY = Qwen2VL()
