"""Vision patches back to pictures, for engines that take pictures.

    pixel = round((patch value * std + mean) / rescale_factor)

The image processor's float32 arithmetic is off by far less than half a grey level, so that the
pictures are exactly those that the patches were made of.

Not here: the way there (`prompts.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vqr1.records import PromptBatch


def pictures_of(prompts: PromptBatch, image_processor: Any) -> list[Tensor]:
    """The resized pictures of a batch.

    Args:
        prompts: B prompts.
        image_processor: the image processor that made their patches.

    Returns:
        B pictures [H_b, W_b, 3] uint8 on the host.
    """
    size, merge = int(image_processor.patch_size), int(image_processor.merge_size)
    depth = int(image_processor.temporal_patch_size)
    mean = torch.tensor(image_processor.image_mean)
    std = torch.tensor(image_processor.image_std)
    grids = prompts.image_grid_thw.tolist()
    counts = [frames * rows * columns for frames, rows, columns in grids]
    pictures = []
    patches = prompts.pixel_values.detach().to("cpu", torch.float32)
    for part, (_, rows, columns) in zip(patches.split(counts), grids, strict=True):
        # A still picture fills all frames alike: the first one says it all.
        blocks = part.view(rows // merge, columns // merge, merge, merge, 3, depth, size, size)[
            :, :, :, :, :, 0
        ]
        # row, column, merge y, merge x, rgb, y, x -> row, merge y, y, column, merge x, x, rgb
        image = blocks.permute(0, 2, 5, 1, 3, 6, 4).reshape(rows * size, columns * size, 3)
        values = (image * std + mean) / image_processor.rescale_factor
        pictures.append(values.round().clamp(0, 255).to(torch.uint8))
    return pictures
