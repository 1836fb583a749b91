"""Qwen2.5-VL (arXiv 2502.13923): 3B and 7B Instruct, and the tiny policy.

A tower with window and full attention over patches of 14 pixels, of which 2 x 2 become one token;
a text model with multimodal rotary positions on three axes.

Not here: its layers (`_qwen2_5_vl_layers.py`), released shapes (`_qwen2_5_vl_shapes.py`), the code
on its model cards (`_qwen2_5_vl_card.py`), and what the Qwen-VL families share (`_qwen_images.py`,
`_qwen_positions.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from vqr1.data.prompts import ResizeRule
from vqr1.policy.families import _qwen2_5_vl_card as card
from vqr1.policy.families._qwen_grids import tower_arguments
from vqr1.policy.families._qwen_images import AreaRule, PatchEncoding, area_rule
from vqr1.policy.families._qwen_positions import prompt_positions
from vqr1.policy.families.base import Family, Parts
from vqr1.policy.tower_cost import TowerCost

if TYPE_CHECKING:
    from vqr1.policy.model_card import CardFacts


class Qwen25VL(Family):
    """See the module's header; signatures are explained in `base.py`."""

    title = "Qwen2.5-VL"
    architecture = "Qwen2_5_VLForConditionalGeneration"
    released = {  # noqa: RUF012 (a class variable of the base)
        "Qwen/Qwen2.5-VL-3B-Instruct": "3b",
        "Qwen/Qwen2.5-VL-7B-Instruct": "7b",
        "TianheWu/VisualQuality-R1-7B": "7b",
        "ByteDance/Q-Insight": "7b",
        "ByteDance/EvoQuality": "7b",
    }
    shapes: ClassVar[tuple[str, ...]] = ("39m", "3b", "7b")
    # System turn, question and instruction of the published prompt.
    text_tokens = 110
    end_of_turn = ("<|im_end|>", "<|endoftext|>")
    image_label = "Picture {}: "
    position_axes = 3

    def parts(self, core: Any) -> Parts:
        """Tower and merger are one module."""
        text, visual = core.model.language_model, core.model.visual
        return Parts(
            text=text,
            embeddings=text.embed_tokens,
            head=core.lm_head,
            text_layers=text.layers,
            vision=visual,
            vision_layers=visual.blocks,
            connector=self.mergers(visual),
        )

    def mergers(self, visual: Any) -> nn.Module:
        """What follows the blocks."""
        merger: nn.Module = visual.merger
        return merger

    def fast_layers(self) -> Mapping[type[nn.Module], type[nn.Module]]:
        """Norms, feed-forward layers, patch embedding and window attention."""
        from vqr1.policy.families._qwen2_5_vl_layers import FAST_LAYERS

        return FAST_LAYERS

    def external_weights(self, parts: Parts) -> list[tuple[nn.Module, nn.Parameter]]:
        """The patch embedding is computed from the weight of its convolution."""
        patches = parts.vision.patch_embed
        return [(patches, patches.proj.weight)]

    def resize_rule(self, image_processor: Any, min_pixels: int, max_pixels: int) -> AreaRule:
        """Sides are multiples of a merged patch, the area is within the limits."""
        return area_rule(image_processor, min_pixels, max_pixels)

    def image_encoding(self, image_processor: Any) -> PatchEncoding:
        """Patches, as the checkpoint's numbers ask for them."""
        return PatchEncoding.of(image_processor, self.title)

    def processor_problem(self, config: Any, processor: Any) -> str | None:
        """Patches of another size."""
        return self.image_encoding(processor.image_processor).problem(config.vision_config)

    def released_encoding(self, config: Any) -> PatchEncoding:
        """CLIP's normalisation."""
        vision = config.vision_config
        return PatchEncoding(
            vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
        )

    def image_features(
        self, core: Any, encoding: PatchEncoding, images: Sequence[Tensor]
    ) -> list[Tensor]:
        """[T_b, H] of each image: one row for each merged patch."""
        patches, grids = encoding.encode(images)
        output = core.model.get_image_features(
            patches, **tower_arguments(core.model.visual, grids, patches.device), return_dict=True
        )
        return list(output.pooler_output)

    def most_tokens(self, processor: Any, rule: AreaRule) -> int:
        """By the largest area."""
        del processor
        return rule.most_tokens()

    def image_ids(self, processor: Any, encoding: PatchEncoding, image: Tensor) -> list[int]:
        """One image token for each merged patch."""
        return [int(processor.image_token_id)] * encoding.tokens(image)

    def prompt_positions(
        self, config: Any, encoding: PatchEncoding, input_ids: Tensor, images: Sequence[Tensor]
    ) -> tuple[Tensor, int]:
        """Frame, row and column of merged patches."""
        grids = [encoding.grid(image) for image in images]
        return prompt_positions(input_ids, grids, self.image_token(config), encoding.merge)

    def template_options(self, vision_id: bool, thinking: bool | None = None) -> dict[str, Any]:
        """Whether images are numbered, besides."""
        return {"add_vision_id": vision_id, **super().template_options(vision_id, thinking)}

    def serving_arguments(self, rule: AreaRule) -> dict[str, Any]:
        """The processor would resize again."""
        limits = {"min_pixels": rule.min_pixels, "max_pixels": rule.max_pixels}
        return {"do_resize": False, **limits}

    def shape_config(self, shape: str, number: Callable[[str], int] = lambda token: 0) -> Any:
        """Of a released checkpoint, or of a small one for CPUs."""
        from vqr1.policy.families._qwen2_5_vl_shapes import shape_config

        return shape_config(shape, number)

    def tower_cost(self, config: Any, rule: ResizeRule, size: tuple[int, int] | None) -> TowerCost:
        """Window attention in all blocks but a few, a gated feed-forward layer, a merger."""
        assert isinstance(rule, AreaRule)
        vision = config.vision_config
        pixels = rule.max_pixels // rule.factor**2 * rule.factor**2
        if size is not None:
            pixels = math.prod(rule.size(*size))
        width, inner, depth = vision.hidden_size, vision.intermediate_size, vision.depth
        merged = vision.spatial_merge_size**2
        rows = pixels // vision.patch_size**2
        numbers = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        linear = depth * (4 * width**2 + 3 * width * inner) + numbers * width
        merger = (merged * width) ** 2 + merged * width * vision.out_hidden_size
        window = (vision.window_size // vision.patch_size) ** 2
        full = len(vision.fullatt_block_indexes)
        pairs = full * rows + (depth - full) * min(window, rows)
        return TowerCost(
            tokens=rows // merged,
            features=vision.out_hidden_size,
            pixels=vision.in_channels * pixels,
            rows=rows,
            flops=2 * rows * linear + 2 * rows / merged * merger + 4 * width * rows * pairs,
            depth=depth,
            width=width,
            # The input of attention and of the feed-forward layer, and the inverse norms.
            residual=2 * width + 2,
            # Both norms' results, q, k and v as one (v is a view of it), rotated q and k, the
            # attention's result and its rows; gate, up and their product.
            inner=9 * width + 3 * inner,
            # The attention's log-sum-exps.
            exact=vision.num_heads,
            # The merger keeps its norm's input and result, and both sides of its activation; the
            # first layer keeps the patches.
            ends=4 * width + numbers,
        )

    def usage_code(self, facts: CardFacts) -> str:
        """With transformers and qwen-vl-utils."""
        return card.usage_code(facts, self.architecture)

    def usage_needs(self) -> str:
        """The first release that knows the family."""
        return card.NEEDS

    def usage_limitation(self, facts: CardFacts) -> str | None:
        """Of "Picture 1: " in the first release."""
        return card.limitation(facts)


FAMILY = Qwen25VL()
