"""What the towers of Qwen2-VL and Qwen3-VL compute and keep for one image; for the planner.

Not here: Qwen2.5-VL's, with windows and a gated feed-forward layer (`qwen2_5_vl.py`).
"""

from __future__ import annotations

import math
from typing import Any

from vqr1.data.prompts import ResizeRule
from vqr1.policy.families._qwen_images import AreaRule
from vqr1.policy.tower_cost import TowerCost


def full_attention_cost(
    vision: Any,
    rule: ResizeRule,
    size: tuple[int, int] | None,
    *,
    width: int,
    inner: int,
    out: int,
    mergers: int,
) -> TowerCost:
    """The cost of a tower of layer norms, full attention, and feed-forward layers without a gate.

    Args:
        vision: `vision_config`.
        rule: how images are resized.
        size: width and height of the image on disk; None: the largest that the rule admits.
        width: of the blocks.
        inner: of their feed-forward layers.
        out: hidden size of the text model.
        mergers: the last, and those of DeepStack.
    """
    assert isinstance(rule, AreaRule)
    pixels = rule.max_pixels // rule.factor**2 * rule.factor**2
    if size is not None:
        pixels = math.prod(rule.size(*size))
    merged, depth = vision.spatial_merge_size**2, vision.depth
    rows = pixels // vision.patch_size**2
    numbers = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    linear = depth * (4 * width**2 + 2 * width * inner) + numbers * width
    merger = mergers * ((merged * width) ** 2 + merged * width * out)
    return TowerCost(
        tokens=rows // merged,
        features=mergers * out,
        pixels=vision.in_channels * pixels,
        rows=rows,
        flops=2 * rows * linear + 2 * rows / merged * merger + 4 * width * rows * depth * rows,
        depth=depth,
        width=width,
        # The input of attention and of the feed-forward layer; mean and inverse deviation of both.
        residual=2 * width + 4,
        # Both norms' results, q, k and v as one (v is a view of it), rotated q and k, the
        # attention's result and its rows; both sides of the activation.
        inner=9 * width + 2 * inner,
        # The attention's log-sum-exps.
        exact=vision.num_heads,
        # A merger keeps its norm's result and both sides of its activation, the last its norm's
        # input too (the others' is a block's); the first layer keeps the patches.
        ends=(3 * mergers + 1) * width + numbers,
    )
