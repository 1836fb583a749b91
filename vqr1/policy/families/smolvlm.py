r"""SmolVLM2 (arXiv 2504.05299): 256M and 500M Video-Instruct; `idefics3.py` has the first SmolVLM.

A SigLIP tower over tiles of 512 pixels, whose 4 x 4 patches a pixel shuffle and one linear layer
make one token; a Llama text model with one-dimensional rotary positions. Markers stand around every
tile, and line breaks after every row of tiles:

    <fake_token_around_image><row_1_col_1><image> x 64 ... \n
    \n<fake_token_around_image><global-img><image> x 64<fake_token_around_image>

Not here: resizing and tiles (`_smolvlm_images.py`), released shapes (`_smolvlm_shapes.py`), the
code on model cards (`_smolvlm_card.py`), fast layers of the text model (`_text_layers.py`);
videos.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vqr1.data.prompts import ResizeRule
from vqr1.errors import ModelError
from vqr1.policy.families import _smolvlm_card as card
from vqr1.policy.families._smolvlm_images import TileEncoding, TileRule, tile_rule
from vqr1.policy.families.base import Family, Parts
from vqr1.policy.tower_cost import TowerCost

if TYPE_CHECKING:
    from vqr1.policy.model_card import CardFacts


class SmolVLM(Family):
    """See the module's header; signatures are explained in `base.py`."""

    title = "SmolVLM2"
    architecture = "SmolVLMForConditionalGeneration"
    released = {  # noqa: RUF012 (a class variable of the base)
        "HuggingFaceTB/SmolVLM2-256M-Video-Instruct": "256m",
        "HuggingFaceTB/SmolVLM2-500M-Video-Instruct": "500m",
    }
    shapes = ("38m", "256m", "500m")
    # Question and instruction of the published prompt.
    text_tokens = 110
    end_of_turn = ("<end_of_utterance>",)
    text_module = "text_model"

    def parts(self, core: Any) -> Parts:
        """The connector leads from the tower to the text model."""
        text, tower = core.model.text_model, core.model.vision_model
        return Parts(
            text=text,
            embeddings=text.embed_tokens,
            head=core.lm_head,
            text_layers=text.layers,
            vision=nn.ModuleList([tower, core.model.connector]),
            vision_layers=tower.encoder.layers,
            connector=core.model.connector,
        )

    def fast_layers(self) -> Mapping[type[nn.Module], type[nn.Module]]:
        """Norms and feed-forward layers of the text model."""
        from vqr1.policy.families._text_layers import FAST_LAYERS

        return FAST_LAYERS

    def resize_rule(self, image_processor: Any, min_pixels: int, max_pixels: int) -> TileRule:
        """Whole tiles; the longer side is the same for all images."""
        return tile_rule(image_processor, min_pixels, max_pixels)

    def image_encoding(self, image_processor: Any) -> TileEncoding:
        """Tiles, as the checkpoint's numbers ask for them."""
        return TileEncoding.of(image_processor, self.title)

    def processor_problem(self, config: Any, processor: Any) -> str | None:
        """Tiles of another size than the tower's."""
        tile = self.image_encoding(processor.image_processor).tile
        size = config.vision_config.image_size
        if tile == size:
            return None
        return (
            f"its image processor cuts images into tiles of {tile} pixels, the model's tower takes "
            f"{size}"
        )

    def released_encoding(self, config: Any) -> TileEncoding:
        """Tiles of the tower's image size."""
        return TileEncoding(int(config.vision_config.image_size))

    def image_features(
        self, core: Any, encoding: TileEncoding, images: Sequence[Tensor]
    ) -> list[Tensor]:
        """[T_b, H] of each image: its tiles' tokens one after the other.

        The parts are called one by one: the library's `get_image_features` drops tiles whose values
        are all zero, which it takes for padding.
        """
        tiles, counts = encoding.encode(images)
        tower = core.model.vision_model
        tiles = tiles.to(tower.embeddings.patch_embedding.weight.dtype)
        features = core.model.connector(tower(pixel_values=tiles).last_hidden_state)
        return [part.flatten(0, 1) for part in features.split(counts)]

    def most_tokens(self, processor: Any, rule: TileRule) -> int:
        """Of a square image, all markers and line breaks included."""
        return rule.most_tokens(int(processor.image_seq_len))

    def image_ids(self, processor: Any, encoding: TileEncoding, image: Tensor) -> list[int]:
        """Markers, image tokens and line breaks of all tiles."""
        around, places = processor.fake_image_token, processor.image_token * processor.image_seq_len
        rows, columns = encoding.grid(image)
        text = ""
        for row in range(1, rows + 1):
            for column in range(1, columns + 1):
                text += f"{around}<row_{row}_col_{column}>{places}"
            text += "\n" if row < rows else "\n\n"
        text += f"{around}<global-img>{places}{around}"
        ids: list[int] = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def prompt_positions(
        self, config: Any, encoding: TileEncoding, input_ids: Tensor, images: Sequence[Tensor]
    ) -> tuple[Tensor, int]:
        """Every token counts up by one.

        Raises:
            ModelError: the prompt has another number of image tokens than the tiles give.
        """
        found = int((input_ids == self.image_token(config)).sum())
        wanted = sum(map(encoding.count, images)) * self._tile_tokens(config, encoding.tile)
        if found != wanted:
            raise ModelError(
                f"prompt: found {found} image tokens for images whose tiles have {wanted}; use the "
                "processor of this model"
            )
        return torch.arange(len(input_ids), device=input_ids.device)[None], len(input_ids)

    @staticmethod
    def _tile_tokens(config: Any, tile: int) -> int:
        edge = tile // config.vision_config.patch_size
        return int(edge**2 // config.scale_factor**2)

    def serving_arguments(self, rule: TileRule) -> dict[str, Any]:
        """Resized images stay as they are, and are counted as such."""
        return {"do_resize": False, "size": {"longest_edge": rule.side}}

    def shape_config(self, shape: str, number: Callable[[str], int] = lambda token: 0) -> Any:
        """Of a released checkpoint, or of a small one for CPUs."""
        from vqr1.policy.families._smolvlm_shapes import shape_config

        return shape_config(self.model_class().config_class, shape, number)

    def tower_cost(self, config: Any, rule: ResizeRule, size: tuple[int, int] | None) -> TowerCost:
        """Full attention inside each tile, a feed-forward layer without gate, a pixel shuffle."""
        assert isinstance(rule, TileRule)
        vision = config.vision_config
        wide, high = rule.size(*(size or (rule.longest, rule.longest)))
        grid = wide // rule.tile * (high // rule.tile)
        tiles = grid + 1 if grid > 1 else 1
        width, inner, depth = vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers
        patches = (rule.tile // vision.patch_size) ** 2
        tokens = self._tile_tokens(config, rule.tile)
        rows = tiles * patches
        numbers = vision.num_channels * vision.patch_size**2
        linear = depth * (4 * width**2 + 2 * width * inner) + numbers * width
        connector = tiles * tokens * width * config.scale_factor**2 * config.text_config.hidden_size
        markers = 2 * tiles + 1 + (high // rule.tile if grid > 1 else 0)
        return TowerCost(
            tokens=tiles * tokens + markers,
            features=config.text_config.hidden_size,
            pixels=vision.num_channels * wide * high,
            rows=rows,
            flops=2.0 * rows * linear + 2.0 * connector + 4.0 * width * rows * patches * depth,
            depth=depth,
            width=width,
            # The input of attention and of the feed-forward layer, their means and inverse
            # deviations.
            residual=2 * width + 4,
            # Both norms' results, q, k, v and the attention's result; before and after the
            # activation.
            inner=6 * width + 2 * inner,
            # The attention's log-sum-exps.
            exact=vision.num_attention_heads,
            # The last norm's input and the shuffled result; the first layer keeps the tiles.
            ends=2 * width + numbers,
        )

    def usage_code(self, facts: CardFacts) -> str:
        """With transformers."""
        return card.usage_code(facts, self.architecture)

    def usage_needs(self) -> str:
        """The first release that knows the family."""
        return "transformers 4.50 or later, num2words and Pillow"


FAMILY = SmolVLM()
