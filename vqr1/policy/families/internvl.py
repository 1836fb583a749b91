"""InternVL 3.5 (arXiv 2508.18265): 1B, 2B and 8B, as the -HF checkpoints hold it.

A tower of learned positions over tiles of 448 pixels, whose 2 x 2 patches a pixel shuffle and two
linear layers make one token; a Qwen3 text model (InternVL 3: Qwen2) with one-dimensional rotary
positions. One pair of markers stands around all tiles of an image.

Not here: tiles (`_internvl_images.py`), released shapes (`_internvl_shapes.py`), fast layers of the
text model (`_text_layers.py`); checkpoints in the authors' own format, which bring code; videos.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vqr1.data.prompts import ResizeRule
from vqr1.errors import ModelError
from vqr1.policy.families._card_prompt import processor_code
from vqr1.policy.families._internvl_images import (
    StackEncoding,
    StackRule,
    released_processor,
    stack_rule,
)
from vqr1.policy.families.base import AttentionRows, Family, Parts, normalised_heads
from vqr1.policy.tower_cost import TowerCost

if TYPE_CHECKING:
    from vqr1.policy.model_card import CardFacts

_AROUND = 2
"""Markers around an image."""


class InternVL(Family):
    """See the module's header; signatures are explained in `base.py`."""

    title = "InternVL"
    architecture = "InternVLForConditionalGeneration"
    released = {  # noqa: RUF012 (a class variable of the base)
        "OpenGVLab/InternVL3_5-1B-HF": "1b",
        "OpenGVLab/InternVL3_5-2B-HF": "2b",
        "OpenGVLab/InternVL3_5-8B-HF": "8b",
    }
    shapes = ("37m", "1b", "2b", "8b")
    # Without a system turn.
    text_tokens = 100
    end_of_turn = ("<|im_end|>", "<|endoftext|>")
    head_norms = True

    def parts(self, core: Any) -> Parts:
        """The projector leads from the tower to the text model."""
        text, tower = core.model.language_model, core.model.vision_tower
        return Parts(
            text=text,
            embeddings=text.embed_tokens,
            head=core.lm_head,
            text_layers=text.layers,
            vision=nn.ModuleList([tower, core.model.multi_modal_projector]),
            vision_layers=tower.encoder.layer,
            connector=core.model.multi_modal_projector,
        )

    def fast_layers(self) -> Mapping[type[nn.Module], type[nn.Module]]:
        """Norms and feed-forward layers of the text model."""
        from vqr1.policy.families._text_layers import FAST_LAYERS

        return FAST_LAYERS

    def resize_rule(self, image_processor: Any, min_pixels: int, max_pixels: int) -> StackRule:
        """Whole tiles, as the checkpoint's processor cuts them."""
        own = released_processor() if image_processor is None else image_processor
        return stack_rule(own, self.title, min_pixels, max_pixels)

    def image_encoding(self, image_processor: Any) -> StackEncoding:
        """Tiles, as the checkpoint's numbers ask for them."""
        return StackEncoding.of(image_processor, self.title)

    def processor_problem(self, config: Any, processor: Any) -> str | None:
        """Tiles of another size than the tower's, or another number of tokens for each."""
        tile = self.image_encoding(processor.image_processor).tile
        size = config.vision_config.image_size[0]
        found, wanted = int(processor.image_seq_length), self._tile_tokens(config)
        if (tile, found) == (size, wanted):
            return None
        return (
            f"its processor makes tiles of {tile} pixels and {found} tokens, the model's tower "
            f"takes {size} and gives {wanted}"
        )

    def released_encoding(self, config: Any) -> StackEncoding:
        """Tiles of the tower's image size."""
        return StackEncoding(int(config.vision_config.image_size[0]))

    def image_features(
        self, core: Any, encoding: StackEncoding, images: Sequence[Tensor]
    ) -> list[Tensor]:
        """[T_b, H] of each image: its tiles' tokens one after the other."""
        tiles, counts = encoding.encode(images)
        output = core.model.get_image_features(tiles, return_dict=True)
        return [part.flatten(0, 1) for part in output.pooler_output.split(counts)]

    def most_tokens(self, processor: Any, rule: StackRule) -> int:
        """Of the most tiles."""
        return rule.most_tiles() * int(processor.image_seq_length) + _AROUND

    def image_ids(self, processor: Any, encoding: StackEncoding, image: Tensor) -> list[int]:
        """Image tokens of all tiles, between two markers."""
        places = encoding.count(image) * int(processor.image_seq_length)
        return [
            int(processor.start_image_token_id),
            *[int(processor.image_token_id)] * places,
            int(processor.end_image_token_id),
        ]

    def prompt_positions(
        self, config: Any, encoding: StackEncoding, input_ids: Tensor, images: Sequence[Tensor]
    ) -> tuple[Tensor, int]:
        """Every token counts up by one.

        Raises:
            ModelError: the prompt has another number of image tokens than the tiles give.
        """
        found = int((input_ids == self.image_token(config)).sum())
        wanted = sum(map(encoding.count, images)) * self._tile_tokens(config)
        if found != wanted:
            raise ModelError(
                f"prompt: found {found} image tokens for images whose tiles have {wanted}; use the "
                "processor of this model"
            )
        return torch.arange(len(input_ids), device=input_ids.device)[None], len(input_ids)

    @staticmethod
    def _tile_tokens(config: Any) -> int:
        vision = config.vision_config
        edge = vision.image_size[0] // vision.patch_size[0]
        return int((edge * config.downsample_ratio) ** 2)

    def attention_inputs(self, attention: Any, hidden: Tensor) -> AttentionRows:
        """Qwen3 normalises queries and keys head by head, Qwen2 does not."""
        if not hasattr(attention, "q_norm"):
            return super().attention_inputs(attention, hidden)
        return normalised_heads(attention, hidden)

    def serving_problem(self, config: Any) -> str | None:
        """VLLM's processor would cut the tiles again."""
        del config
        return f"no {self.title} models that take tiles which are cut already"

    def serving_arguments(self, rule: StackRule) -> dict[str, Any]:
        """None: see `serving_problem`."""
        del rule
        return {}

    def shape_config(self, shape: str, number: Callable[[str], int] = lambda token: 0) -> Any:
        """Of a released checkpoint, or of a small one for CPUs."""
        from vqr1.policy.families._internvl_shapes import shape_config

        return shape_config(shape, number)

    def tower_cost(self, config: Any, rule: ResizeRule, size: tuple[int, int] | None) -> TowerCost:
        """Full attention inside each tile, a feed-forward layer without a gate, a pixel shuffle."""
        assert isinstance(rule, StackRule)
        vision, hidden = config.vision_config, config.text_config.hidden_size
        tiles = rule.most_tiles() if size is None else rule.count(*size)
        width, inner, depth = vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers
        patches, tokens = (rule.tile // vision.patch_size[0]) ** 2, self._tile_tokens(config)
        # One more row in every tile, of no patch.
        rows = tiles * (patches + 1)
        numbers = vision.num_channels * vision.patch_size[0] ** 2
        merged = patches // tokens * width
        linear = rows * depth * (4 * width**2 + 2 * width * inner)
        projected = tiles * (patches * numbers * width + tokens * hidden * (merged + hidden))
        return TowerCost(
            tokens=tiles * tokens + _AROUND,
            features=hidden,
            pixels=vision.num_channels * tiles * rule.tile**2,
            rows=rows,
            flops=2.0 * (linear + projected) + 4.0 * width * rows * (patches + 1) * depth,
            depth=depth,
            width=width,
            # The input of attention and of the feed-forward layer, their means and inverse
            # deviations.
            residual=2 * width + 4,
            # Both norms' results, q, k, v and the attention's result, what both scales multiply;
            # before and after the activation.
            inner=8 * width + 2 * inner,
            # The attention's log-sum-exps.
            exact=vision.num_attention_heads,
            # The shuffled rows and their norm's result, the projector's activation, the tiles.
            ends=(patches * (2 * width + numbers) + 2 * hidden * tokens) // (patches + 1),
        )

    def usage_code(self, facts: CardFacts) -> str:
        """With transformers."""
        tile = "processor.image_processor.size"
        limits = f"""\

# The training's {facts.min_pixels} to {facts.max_pixels} pixels, in tiles.
area = {tile}["height"] * {tile}["width"]
least, most = -(-{facts.min_pixels} // area), {facts.max_pixels} // area
"""
        nested = '[[Image.open(path).convert("RGB") for path in paths] for paths in prompts]'
        options = "min_patches=least, max_patches=most, "
        return processor_code(
            facts, self.architecture, images=nested, options=options, before=limits
        )

    def usage_needs(self) -> str:
        """The first release that knows the family with a Qwen3 text model."""
        return "transformers 4.55 or later and Pillow"


FAMILY = InternVL()
