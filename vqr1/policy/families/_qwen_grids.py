"""What the Qwen-VL families' towers compute of the sizes of images, computed on the host.

Given sizes on an accelerator, the library's towers ask it for them again in every layer, and wait.
Here row numbers, positions, and the bounds of windows and images are counted on the host and sent
once; what is left there FSDP2 would send, and wait. Values are the library's own.

Not here: what a size is (`_qwen_images.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.utils.generic import is_flash_attention_requested

from vqr1.device import to_device
from vqr1.policy.fast_layers import WindowPlan


def tower_arguments(visual: Any, grids: Tensor, device: torch.device) -> dict[str, Any]:
    """Arguments of `get_image_features` beside the patches.

    Args:
        visual: the tower.
        grids: [B, 3] int64 on the host: frames, patch rows and patch columns of each image.
        device: where the tower computes.
    """
    if device.type == "cpu":
        return {"image_grid_thw": grids}
    try:
        from transformers import vision_utils as library
    except ImportError:  # releases before the towers took what was computed ahead
        return {"image_grid_thw": grids.to(device)}
    merge = visual.spatial_merge_size
    found: dict[str, Any] = {
        "image_grid_thw": grids,
        "position_ids": to_device(library.get_vision_position_ids(grids, merge), device),
    }
    bounds = {"cu_seqlens": library.get_vision_cu_seqlens(grids)}
    if hasattr(visual, "window_size"):
        index, windows = library.get_vision_window_index(
            grids,
            spatial_merge_size=merge,
            window_size=visual.window_size,
            patch_size=visual.patch_size,
        )
        found["window_index"] = to_device(index, device)
        bounds["cu_window_seqlens"] = windows
    if hasattr(visual, "num_grid_per_side"):
        indices, weights = library.get_vision_interpolation_indices_and_weights(
            grids,
            num_grid_per_side=visual.num_grid_per_side,
            mode=visual.interpolation_mode,
            align_corners=visual.interpolation_align_corners,
            spatial_merge_size=merge,
        )
        found["interp_indices"] = to_device(indices, device)
        found["interp_weights"] = to_device(weights, device)
    # The kernels of flash-attn read the bounds themselves; other layers take the plan of them.
    flash = is_flash_attention_requested(visual.config)
    send = to_device if flash else WindowPlan.sent
    return found | {name: send(value, device) for name, value in bounds.items()}
