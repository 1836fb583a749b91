"""Qwen3-VL, dense (arXiv 2511.21631): 2B, 4B and 8B Instruct.

A tower with full attention over patches of 16 pixels, of which 2 x 2 become one token, and with
DeepStack (arXiv 2406.04334): what some of its blocks give goes, merged by a merger of its own, into
the first layers of the text model beside the tower's result. An image's features therefore are as
wide as 1 + D hidden sizes, side by side: what replaces the embedding, then what is added after each
of the first D layers. The text model has interleaved multimodal rotary positions on three axes and
norms of queries and keys.

Not here: its layers (`_qwen3_vl_layers.py`), released shapes (`_qwen3_vl_shapes.py`), what it has
in common with Qwen2.5-VL (`qwen2_5_vl.py`), and mixtures of experts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vqr1.data.prompts import ResizeRule
from vqr1.policy.families import _qwen2_5_vl_card as card
from vqr1.policy.families._qwen_grids import tower_arguments
from vqr1.policy.families._qwen_images import AreaRule, PatchEncoding, area_rule
from vqr1.policy.families._qwen_tower import full_attention_cost
from vqr1.policy.families.base import AttentionRows, Parts, normalised_heads
from vqr1.policy.families.qwen2_5_vl import Qwen25VL
from vqr1.policy.tower_cost import TowerCost

if TYPE_CHECKING:
    from vqr1.policy.model_card import CardFacts

PATCH = 16
"""Edge of a patch of the released checkpoints, in pixels."""

MEAN = STD = (0.5, 0.5, 0.5)
"""Per-channel normalisation of the released checkpoints."""


class Qwen3VL(Qwen25VL):
    """See the module's header; signatures are explained in `base.py`."""

    title = "Qwen3-VL"
    architecture = "Qwen3VLForConditionalGeneration"
    released = {  # noqa: RUF012 (a class variable of the base)
        "Qwen/Qwen3-VL-2B-Instruct": "2b",
        "Qwen/Qwen3-VL-4B-Instruct": "4b",
        "Qwen/Qwen3-VL-8B-Instruct": "8b",
        "RobinY99/MR-IQA": "2b",
    }
    shapes = ("38m", "2b", "4b", "8b")
    # Without a system turn.
    text_tokens = 100
    head_norms = True

    def mergers(self, visual: Any) -> nn.Module:
        """The last one, and those of DeepStack."""
        return nn.ModuleList([visual.merger, *visual.deepstack_merger_list])

    def fast_layers(self) -> Mapping[type[nn.Module], type[nn.Module]]:
        """Norms and feed-forward layers of the text model, patch embedding and attention."""
        from vqr1.policy.families._qwen3_vl_layers import FAST_LAYERS

        return FAST_LAYERS

    def external_weights(self, parts: Parts) -> list[tuple[nn.Module, nn.Parameter]]:
        """The patch embedding is computed from the weight and the bias of its convolution."""
        patches = parts.vision.patch_embed
        return [(patches, patches.proj.weight), (patches, patches.proj.bias)]

    def resize_rule(self, image_processor: Any, min_pixels: int, max_pixels: int) -> AreaRule:
        """Sides are multiples of a merged patch, the area is within the limits."""
        return area_rule(image_processor, min_pixels, max_pixels, patch=PATCH)

    def released_encoding(self, config: Any) -> PatchEncoding:
        """Grey levels from -1 to 1."""
        vision = config.vision_config
        return PatchEncoding(
            vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size, MEAN, STD
        )

    def image_features(
        self, core: Any, encoding: PatchEncoding, images: Sequence[Tensor]
    ) -> list[Tensor]:
        """[T_b, (1 + D) H] of each image: for each merged patch its feature and DeepStack's."""
        patches, grids = encoding.encode(images)
        output = core.model.get_image_features(
            patches, **tower_arguments(core.model.visual, grids, patches.device), return_dict=True
        )
        counts = [len(rows) for rows in output.pooler_output]
        # Older releases give DeepStack's rows of all images as one.
        further = (
            level.split(counts) if isinstance(level, Tensor) else level
            for level in output.deepstack_features
        )
        levels = (output.pooler_output, *further)
        return [torch.cat(rows, dim=-1) for rows in zip(*levels, strict=True)]

    def embed(self, parts: Parts, tokens: Tensor) -> Tensor:
        """[L, (1 + D) H]: text adds nothing to the first layers."""
        embeds: Tensor = parts.embeddings(tokens)
        further = len(parts.vision.deepstack_merger_list)
        return nn.functional.pad(embeds, (0, further * embeds.shape[-1]))

    def run_text(self, text: Any, embeds: Tensor, positions: Tensor, **attention: Any) -> Tensor:
        """The features of DeepStack are added by the text model's own pass."""
        own, *added = embeds.split(text.config.hidden_size, dim=-1)
        output = text(
            # A copy: a view would keep what is added below until the backward pass.
            inputs_embeds=own.contiguous()[None],
            position_ids=positions[:, None],
            use_cache=False,
            # The pass adds at `hidden[visual_pos_masks]`: here to row 0 of a batch of one, all of
            # it, because text has zeros there. A mask would have to be counted on the host.
            visual_pos_masks=torch.zeros(1, dtype=torch.int64, device=embeds.device),
            deepstack_visual_embeds=added,
            **attention,
        )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden

    def attention_inputs(self, attention: Any, hidden: Tensor) -> AttentionRows:
        """Queries and keys are normalised head by head."""
        return normalised_heads(attention, hidden)

    def shape_config(self, shape: str, number: Callable[[str], int] = lambda token: 0) -> Any:
        """Of a released checkpoint, or of a small one for CPUs."""
        from vqr1.policy.families._qwen3_vl_shapes import shape_config

        return shape_config(shape, number)

    def tower_cost(self, config: Any, rule: ResizeRule, size: tuple[int, int] | None) -> TowerCost:
        """Full attention, a feed-forward layer without a gate, 1 + D mergers."""
        vision = config.vision_config
        return full_attention_cost(
            vision,
            rule,
            size,
            width=vision.hidden_size,
            inner=vision.intermediate_size,
            out=vision.out_hidden_size,
            mergers=1 + len(vision.deepstack_visual_indexes),
        )

    def usage_code(self, facts: CardFacts) -> str:
        """With transformers and qwen-vl-utils."""
        return card.usage_code(facts, self.architecture, patch=PATCH)

    def usage_needs(self) -> str:
        """The first releases that know the family."""
        return "transformers 4.57 or later and qwen-vl-utils 0.0.14 or later"

    def usage_limitation(self, facts: CardFacts) -> str | None:
        """None: every release that knows the family numbers images."""
        del facts
        return None


FAMILY = Qwen3VL()
