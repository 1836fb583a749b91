"""Vision towers that timm lacks, registered as timm architectures under names of their own.

`fast_vlm` takes the last map of a timm architecture and no other, but what distinguishes a good
photograph from a bad one is mostly in the middle of a network. A tower of this module hands out the
maps of several stages as one: each is averaged over the cells of one common grid, and they are
joined over channels,

    out[:, offset_s + c, i, j] = mean of stage s, channel c, over the pixels of cell (i, j)

so that its only map holds them all, `num_features` channels of `grid` x `grid`. Weights have the
names and shapes of the architecture it is made from, so its pretrained weights load as they are.

    import vqr1.policy.towers  # registers the names
    timm.create_model("tf_efficientnet_lite0_stages", num_classes=0)

Importing this module registers; nothing else does. A checkpoint folder whose `config.json` names
such a tower loads in transformers alone once this module has been imported. Needs the extra `timm`.

Not here: which checkpoints have such a tower (`vqr1.policy.families`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.models import register_model
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["StagedEfficientNet", "pooled", "with_deviations"]

STAGES = (1, 2, 4, 6)
"""Stages whose maps are handed out: the last ones of 1/4, 1/8, 1/16 and 1/32 of the image's side,
24 + 40 + 112 + 320 = 496 channels of EfficientNet-Lite0."""

GRID = 5
"""Cells along each side."""

_SMALLEST = 1e-6
"""Added to a variance, so that its root has a gradient where a cell is flat."""


def _cells(x: Tensor, grid: int) -> Tensor:
    """[B, C, h, w] -> [B, C, grid, h / grid, grid, w / grid]."""
    height, width = x.shape[-2:]
    if height % grid or width % grid:
        raise ValueError(
            f"a map of {height} x {width} has no {grid} x {grid} equal cells; take images whose "
            f"sides are multiples of {grid} times the tower's stride, such as {64 * grid}"
        )
    return x.unflatten(3, (grid, width // grid)).unflatten(2, (grid, height // grid))


def pooled(x: Tensor, grid: int) -> Tensor:
    """The mean of each cell of a map.

    Sums in a fixed order, unlike the backward pass of adaptive pooling on a GPU.

    Args:
        x: [B, C, h, w], both sides multiples of `grid`.
        grid: cells along each side.

    Returns:
        [B, C, grid, grid].

    Raises:
        ValueError: a side is no multiple of the grid.
    """
    return _cells(x, grid).mean(dim=(3, 5))


def with_deviations(x: Tensor, grid: int) -> Tensor:
    """The mean of each cell of a map, then its standard deviation.

    Args:
        x: [B, C, h, w], both sides multiples of `grid`.
        grid: cells along each side.

    Returns:
        [B, 2 C, grid, grid].

    Raises:
        ValueError: a side is no multiple of the grid.
    """
    cells = _cells(x, grid)
    mean = cells.mean(dim=(3, 5), keepdim=True)
    variance = (cells - mean).square().mean(dim=(3, 5))
    return torch.cat([mean.flatten(2, 3).flatten(3), (variance + _SMALLEST).sqrt()], dim=1)


class StagedEfficientNet(EfficientNet):
    """An EfficientNet whose only map joins the pooled maps of several stages.

    Attributes:
        stages: numbers of the stages, ascending, from 0; the number after the last is the head's
            map, after its convolution.
        grid: cells along each side of the map.
        deviations: whether each stage's standard deviations follow its means.
        num_features: channels of the map.
    """

    stages: tuple[int, ...]
    grid: int
    deviations: bool

    @staticmethod
    def of(
        model: EfficientNet, stages: Sequence[int], grid: int, deviations: bool
    ) -> StagedEfficientNet:
        """Makes a staged tower of an EfficientNet without a classifier, in place.

        What comes after the last of the stages is removed.

        Raises:
            ValueError: stages that are not ascending, or that the network lacks.
        """
        head = len(model.blocks)
        if list(stages) != sorted(set(stages)) or not stages or not 0 <= stages[0] <= head:
            raise ValueError(f"stages={tuple(stages)}: must be ascending and from 0 to {head}")
        if stages[-1] > head:
            raise ValueError(f"stages={tuple(stages)}: the network has 0 to {head}")
        if stages[-1] < head:
            model.blocks = model.blocks[: stages[-1] + 1]
            model.conv_head, model.bn2 = nn.Identity(), nn.Identity()
        channels = [
            model.num_features if stage == head else _channels(model.blocks[stage])
            for stage in stages
        ]
        staged: Any = model
        staged.__class__ = StagedEfficientNet
        staged.stages, staged.grid, staged.deviations = tuple(stages), grid, deviations
        staged.num_features = staged.head_hidden_size = sum(channels) * (2 if deviations else 1)
        result: StagedEfficientNet = staged
        return result

    def forward_features(self, x: Tensor) -> Tensor:
        """[B, 3, h, w] -> [B, num_features, grid, grid]."""
        pool = with_deviations if self.deviations else pooled
        x = self.bn1(self.conv_stem(x))
        maps = []
        for number, stage in enumerate(self.blocks):
            for block in stage:
                if self.grad_checkpointing and torch.is_grad_enabled():
                    x = checkpoint(block, x, use_reentrant=False)
                else:
                    x = block(x)
            if number in self.stages:
                maps.append(pool(x, self.grid))
        if len(self.blocks) in self.stages:
            maps.append(pool(self.bn2(self.conv_head(x)), self.grid))
        return torch.cat(maps, dim=1)


def _channels(stage: nn.Module) -> int:
    """Channels of a stage's map."""
    convolutions = [m for m in stage.modules() if isinstance(m, nn.Conv2d)]
    return int(convolutions[-1].out_channels)


def _staged(
    architecture: str,
    stages: Sequence[int] = STAGES,
    grid: int = GRID,
    deviations: bool = False,
    num_classes: int = 0,
    **kwargs: Any,
) -> StagedEfficientNet:
    if kwargs.pop("pretrained", False):
        raise ValueError("no pretrained weights are known; load those of the base architecture")
    for name in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        kwargs.pop(name, None)
    if num_classes:
        raise ValueError(f"num_classes={num_classes}: the tower has no classifier; set 0")
    base = timm.create_model(architecture, pretrained=False, num_classes=0, **kwargs)
    return StagedEfficientNet.of(base, stages, grid, deviations)


@register_model
def efficientnet_lite0_stages(**kwargs: Any) -> StagedEfficientNet:
    """EfficientNet-Lite0 with symmetric padding, stages joined; see `StagedEfficientNet`."""
    return _staged("efficientnet_lite0", **kwargs)


@register_model
def tf_efficientnet_lite0_stages(**kwargs: Any) -> StagedEfficientNet:
    """EfficientNet-Lite0 with its authors' padding, stages joined; see `StagedEfficientNet`."""
    return _staged("tf_efficientnet_lite0", **kwargs)
