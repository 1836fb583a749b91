"""Multimodal rotary positions of the Qwen-VL families (Qwen2-VL, arXiv 2409.12191, section 2.1).

Text counts up by one on all three axes. Image tokens, which start at position s, get
(s + frame, s + row, s + column) of their merged patch; the text after the image resumes at
s + max(rows, columns). Checked against `get_rope_index`.

Not here: videos, whose frames count in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vqr1.errors import ModelError


def prompt_positions(
    input_ids: Tensor, grids: Sequence[Sequence[int]], image_token: int, merge: int
) -> tuple[Tensor, int]:
    """Positions of a prompt with one or several images.

    Args:
        input_ids: [P] tokens of the prompt.
        grids: frames, patch rows and patch columns of each image, in the prompt's order.
        image_token: number of the image token.
        merge: patches that are merged along each side.

    Returns:
        [3, P] positions (frame, row, column axis) and the position of the first response token.

    Raises:
        ModelError: the prompt's image tokens do not match the images' sizes.
    """
    merged = [(frames, rows // merge, columns // merge) for frames, rows, columns in grids]
    is_image = (input_ids == image_token).int()
    found, wanted = int(is_image.sum()), sum(map(math.prod, merged))
    if found != wanted:
        raise ModelError(
            f"prompt: found {found} image tokens for an image of {wanted} merged "
            "patches; each merged patch needs exactly one; use the processor of this model"
        )
    device = input_ids.device
    parts, place, position = [], 0, 0
    for sizes in merged:
        before = int(is_image[place:].argmax())
        parts.append(torch.arange(position, position + before, device=device).expand(3, -1))
        position += before
        axes = torch.meshgrid(*(torch.arange(size, device=device) for size in sizes), indexing="ij")
        parts.append(torch.stack(axes).reshape(3, -1) + position)
        position += max(sizes[1:])
        place += before + math.prod(sizes)
    rest = len(input_ids) - place
    parts.append(torch.arange(position, position + rest, device=device).expand(3, -1))
    return torch.cat(parts, dim=1), position + rest
