"""FastVLM (arXiv 2412.13303): 0.5B, 1.5B and 7B, and any tower of timm.

A convolutional tower (FastViTHD) whose last map, flattened, is an image's rows: 16 x 16 of 1024 x
1024 pixels; a projector of two layers; Qwen2 or Llama.

Its configuration takes the tower's last map only. A tower that hands out several stages is an
architecture of timm that this package registers (`vqr1.policy.towers`).

Not here: what LLaVA's families share (`_llava_family.py`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vqr1.errors import ModelError
from vqr1.policy.families import _llava_card as card
from vqr1.policy.families._llava_family import LlavaFamily, keep_statistics
from vqr1.policy.families._llava_images import FixedEncoding
from vqr1.policy.families.base import Parts
from vqr1.policy.tower_rows import TowerRows
from vqr1.program import installing

if TYPE_CHECKING:
    from vqr1.policy.model_card import CardFacts


class FastVlm(LlavaFamily, TowerRows):
    """See the module's header; signatures are explained in `base.py`."""

    title = "FastVLM"
    architecture = "FastVlmForConditionalGeneration"
    released = {  # noqa: RUF012 (a class variable of the base)
        "KamilaMila/FastVLM-0.5B": "0.5b",
        "KamilaMila/FastVLM-1.5B": "1.5b",
        "KamilaMila/FastVLM-7B": "7b",
    }
    shapes = ("40m", "0.5b", "1.5b", "7b")
    towers = ("timm_wrapper",)

    def model_type(self) -> str:
        """As in `config.json`."""
        return "fast_vlm"

    def missing_library(self) -> str | None:
        """Towers are made by timm."""
        if importlib.util.find_spec("timm") is not None:
            return None
        return (
            "a FastVLM's vision tower is made by timm, which is not installed here; install it "
            f"with {installing('timm')}"
        )

    def _require_timm(self) -> None:
        missing = self.missing_library()
        if missing is not None:
            raise ModelError(f"model: {missing}")

    def model_class(self) -> Any:
        """The class of transformers, once towers of this package are registered with timm.

        Raises:
            ModelError: timm is not installed.
        """
        self._require_timm()
        importlib.import_module("vqr1.policy.towers")
        return super().model_class()

    def tower_layers(self, tower: Any) -> Any:
        """The blocks that architectures of timm run again under gradient checkpointing."""
        return list(blocks_of(tower.timm_model))

    def tower_rows(
        self, core: Any, encoding: FixedEncoding, images: Sequence[Tensor]
    ) -> list[Tensor]:
        """[T, C] of each image: the cells of the tower's map."""
        tower = core.model.vision_tower
        keep_statistics(tower)
        maps = tower(encoding.encode(images), return_dict=True).last_hidden_state
        return list(maps.flatten(2).transpose(1, 2))

    def connect(self, parts: Parts, rows: Sequence[Tensor]) -> list[Tensor]:
        """[T, H] of each image; the projector takes all rows at once."""
        return list(parts.connector(torch.stack(list(rows))))

    def released_processor(self) -> Any:
        """The centre of an image whose short side has 1024 pixels, in [0, 1]."""
        from transformers import CLIPImageProcessor

        return CLIPImageProcessor(
            size={"shortest_edge": 1024},
            crop_size={"height": 1024, "width": 1024},
            image_mean=[0.0, 0.0, 0.0],
            image_std=[1.0, 1.0, 1.0],
        )

    def serving_problem(self, config: Any) -> str | None:
        """VLLM lacks the family."""
        del config
        return f"no {self.title} models"

    def shape_config(self, shape: str, number: Any = lambda token: 0) -> Any:
        """Of a released checkpoint, or of a small one for CPUs; needs timm."""
        self._require_timm()
        return super().shape_config(shape, number)

    def usage_needs(self) -> str:
        """The first release that knows the family."""
        return "transformers 5.0 or later and timm"

    def usage_limitation(self, facts: CardFacts) -> str | None:
        """Towers that timm lacks."""
        del facts
        return card.OWN_TOWERS


def blocks_of(tower: nn.Module) -> Iterator[nn.Module]:
    """Blocks of a tower of timm: what its `blocks` or `layers` hold, however deep these lie."""
    for name, module in tower.named_children():
        if name in ("blocks", "layers"):
            yield from _flat(module)
        else:
            yield from blocks_of(module)


def _flat(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.Sequential):
            yield from _flat(child)
        else:
            yield child


FAMILY = FastVlm()
