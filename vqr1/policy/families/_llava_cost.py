"""What a vision tower computes and keeps, counted by running it on PyTorch's `meta` device.

Meta tensors have shapes and no numbers, so that a tower of any architecture is counted in a second
and without memory: its operations by PyTorch's own counter, what it keeps for the backward pass
by hooks on saved tensors, each storage once and weights not at all.

Not here: towers whose numbers are known in closed form.
"""

from __future__ import annotations

import copy
import json
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vqr1.policy.families.base import Family
from vqr1.policy.tower_cost import TowerCost


@dataclass(frozen=True)
class Counted:
    """A tower's pass over one image.

    Attributes:
        tokens: rows that it gives.
        flops: operations, projector included.
        kept: numbers kept for the backward pass.
        blocks: numbers kept by each block that can run again.
        inputs: numbers that these blocks take.
    """

    tokens: int
    flops: float
    kept: int
    blocks: tuple[int, ...]
    inputs: tuple[int, ...]


class _Kept:
    """Counts numbers saved for the backward pass, each storage once, weights not at all."""

    def __init__(self, model: nn.Module) -> None:
        weights = [*model.parameters(), *model.buffers()]
        self._held: list[Tensor] = list(weights)
        self._seen = {weight.untyped_storage()._cdata for weight in weights}
        self.total = 0

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            # Alive, or another storage would get its address.
            self._held.append(tensor)
            self.total += storage.nbytes() // tensor.element_size()
        return tensor


def count(family: Family, config: Any, size: tuple[int, int]) -> Counted:
    """What the tower and projector of a model do for one image.

    Args:
        family: the model's.
        config: its configuration.
        size: width and height of the resized image.
    """
    return _count(family, _text(config), size, _Passed(config))


def _text(config: Any) -> str:
    return json.dumps(config.to_dict(), sort_keys=True, default=str)


class _Passed:
    """Hands a configuration through a cache that distinguishes calls by its text."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Passed)


@lru_cache(maxsize=32)
def _count(family: Family, text: str, size: tuple[int, int], passed: _Passed) -> Counted:
    del text  # it is the key
    model, pixels = _on_meta(family, passed.config, size)
    core = model.model
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        features = core.get_image_features(pixels, return_dict=True).pooler_output
    kept, taken = _Kept(core), []
    spans: dict[nn.Module, list[int]] = {block: [] for block in family.parts(model).vision_layers}

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = next(x for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        taken.append(given.numel())
        spans[module].append(kept.total)

    def leave(module: nn.Module, *_: Any) -> None:
        spans[module].append(kept.total)

    for block in spans:
        block.register_forward_pre_hook(enter, with_kwargs=True)
        block.register_forward_hook(leave)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda x: x):
        core.get_image_features(pixels, return_dict=True)
    own = tuple(after - before for before, after in (s for s in spans.values() if len(s) == 2))
    return Counted(
        features[0].shape[0], float(flops.get_total_flops()), kept.total, own, tuple(taken)
    )


def _on_meta(family: Family, config: Any, size: tuple[int, int]) -> tuple[Any, Tensor]:
    """A model without weights, whose text model has one layer, and pixels [1, 3, H, W] for it."""
    config = copy.deepcopy(config)
    config.text_config.num_hidden_layers = 1
    with torch.device("meta"):
        return family.model_class()(config).eval(), torch.empty(1, 3, size[1], size[0])


def rows_of(family: Family, config: Any, size: tuple[int, int]) -> int:
    """Rows that a model's tower and projector give for one image.

    Args:
        family: the model's.
        config: its configuration.
        size: width and height of the resized image.
    """
    return _rows(family, _text(config), size, _Passed(config))


@lru_cache(maxsize=32)
def _rows(family: Family, text: str, size: tuple[int, int], passed: _Passed) -> int:
    del text  # it is the key
    model, pixels = _on_meta(family, passed.config, size)
    with torch.no_grad():
        features = model.model.get_image_features(pixels, return_dict=True).pooler_output
    return int(features[0].shape[0])


def tower_cost(family: Family, config: Any, size: tuple[int, int]) -> TowerCost:
    """The planner's numbers of one image; see `count`.

    A planner counts equal blocks: here as many as the largest of the real ones fits into what all
    of them keep, so that both the sum and what one keeps while it runs again are right.
    """
    counted = count(family, config, size)
    rows = counted.tokens
    in_blocks = sum(counted.blocks)
    depth = max(1, math.ceil(in_blocks / max(counted.blocks, default=1)))
    return TowerCost(
        tokens=counted.tokens,
        features=config.text_config.hidden_size,
        pixels=3 * math.prod(size),
        rows=rows,
        flops=counted.flops,
        depth=depth,
        width=math.ceil(sum(counted.inputs) / depth / rows),
        residual=0,
        inner=math.ceil(in_blocks / depth / rows),
        exact=0,
        ends=math.ceil((counted.kept - in_blocks) / rows),
    )
