"""From grey levels to what towers take, as image processors of transformers compute it.

    value = (grey level - mean / rescale) / (std / rescale)

The arithmetic is that of their torchvision backend, operation by operation, so that every bit is.

Not here: sizes, patches and tiles of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vqr1.device import to_device
from vqr1.errors import ConfigError


def numbers_of(
    image_processor: Any, title: str
) -> tuple[tuple[float, ...], tuple[float, ...], float]:
    """Mean and standard deviation per channel of values in [0, 1], and the factor to [0, 1].

    Args:
        image_processor: the checkpoint's.
        title: its family, for the message.

    Raises:
        ConfigError: it leaves grey levels as they are.
    """
    if not (image_processor.do_rescale and image_processor.do_normalize):
        raise ConfigError(
            [
                "model.path: preprocessor_config.json turns do_rescale or do_normalize off, "
                f"with which no {title} was trained; set both to true"
            ]
        )
    return (
        tuple(map(float, image_processor.image_mean)),
        tuple(map(float, image_processor.image_std)),
        float(image_processor.rescale_factor),
    )


def normalised(
    levels: Tensor, mean: Sequence[float], std: Sequence[float], rescale: float
) -> Tensor:
    """Grey levels [..., 3, h, w] uint8 as float32, on their device; see `numbers_of`."""
    device = levels.device
    lower, scale = to_device(torch.tensor([mean, std]) * (1.0 / rescale), device).unbind()
    return levels.to(torch.float32).sub_(lower[:, None, None]).div_(scale[:, None, None])
