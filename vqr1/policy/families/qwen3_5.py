"""Qwen3.5, dense, and later releases of the same classes: 0.8B, 2B, 4B and 9B.

Three of four layers of the text model are gated DeltaNet: they carry a state from token to token
and have no keys and values. Responses continue the prompt's state (`vqr1.policy.linear_attention`).
The fourth attends to all tokens, with norms of queries and keys, rotary positions on a part of each
head (interleaved, on three axes) and a gate on its result. The tower is Qwen3-VL's without
DeepStack. The chat template opens or closes a block of reasoning (`prompt.enable_thinking`).

Not here: its layers (`_qwen3_5_layers.py`), released shapes (`_qwen3_5_shapes.py`), what it has in
common with Qwen2.5-VL (`qwen2_5_vl.py`), and mixtures of experts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vqr1.data.prompts import ResizeRule
from vqr1.policy.families import _qwen2_5_vl_card as card
from vqr1.policy.families._qwen_images import AreaRule, PatchEncoding, area_rule
from vqr1.policy.families._qwen_tower import full_attention_cost
from vqr1.policy.families.base import AttentionRows, Parts
from vqr1.policy.families.qwen2_5_vl import Qwen25VL
from vqr1.policy.families.qwen3_vl import MEAN, PATCH, STD
from vqr1.policy.linear_attention import LinearLayer
from vqr1.policy.text_cost import TextExtra
from vqr1.policy.tower_cost import TowerCost

if TYPE_CHECKING:
    from vqr1.policy.model_card import CardFacts

_LINEAR = {"q_proj": "in_proj_qkv", "k_proj": "in_proj_qkv", "v_proj": "in_proj_qkv",
           "o_proj": "out_proj"}  # fmt: skip
"""Layers of linear attention that adapters take where the names are those of attention."""


class Qwen35(Qwen25VL):
    """See the module's header; signatures are explained in `base.py`."""

    title = "Qwen3.5"
    architecture = "Qwen3_5ForConditionalGeneration"
    released = {  # noqa: RUF012 (a class variable of the base)
        "Qwen/Qwen3.5-0.8B": "0.8b",
        "Qwen/Qwen3.5-2B": "2b",
        "Qwen/Qwen3.5-4B": "4b",
        "Qwen/Qwen3.5-9B": "9b",
        "q-future/Q-ReAlign-Mini-0.8B": "0.8b",
        "q-future/Q-ReAlign-Lite-4B": "4b",
        "q-future/Q-ReAlign-Pro-9B": "9b",
    }
    shapes = ("40m", "0.8b", "2b", "4b", "9b")
    # Without a system turn; with an open or an empty block of reasoning.
    text_tokens = 103
    thinking_chosen = True
    head_norms = True

    def adapter_targets(self, names: Sequence[str]) -> str:
        """The same in layers of linear attention, whose projections have other names."""
        every = [*names, *(_LINEAR[name] for name in names if name in _LINEAR)]
        return super().adapter_targets([*dict.fromkeys(every)])

    def fast_layers(self) -> Mapping[type[nn.Module], type[nn.Module]]:
        """Layers of linear attention that continue prompts, and faster ones."""
        from vqr1.policy.families._qwen3_5_layers import FAST_LAYERS

        return FAST_LAYERS

    def external_weights(self, parts: Parts) -> list[tuple[nn.Module, nn.Parameter]]:
        """Convolutions that are computed from their weights: the patches', and the text's."""
        patches = parts.vision.patch_embed
        linear = [layer.linear_attn for layer in parts.text_layers if self.linear_layer(layer)]
        return [
            (patches, patches.proj.weight),
            (patches, patches.proj.bias),
            *((module, module.conv1d.weight) for module in linear),
        ]

    def resize_rule(self, image_processor: Any, min_pixels: int, max_pixels: int) -> AreaRule:
        """Sides are multiples of a merged patch, the area is within the limits."""
        return area_rule(image_processor, min_pixels, max_pixels, patch=PATCH)

    def released_encoding(self, config: Any) -> PatchEncoding:
        """Grey levels from -1 to 1."""
        vision = config.vision_config
        return PatchEncoding(
            vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size, MEAN, STD
        )

    def attention_inputs(self, attention: Any, hidden: Tensor) -> AttentionRows:
        """Queries and keys are normalised head by head; half of `q_proj` is the gate."""
        size = attention.head_dim
        query, gate = attention.q_proj(hidden).unflatten(-1, (-1, 2 * size)).chunk(2, dim=-1)
        key = attention.k_norm(attention.k_proj(hidden).unflatten(-1, (-1, size)))
        value = attention.v_proj(hidden).unflatten(-1, (-1, size))
        both = torch.cat([attention.q_norm(query), key], dim=1)
        return AttentionRows(both, value, gate.flatten(1).sigmoid())

    def linear_layer(self, layer: Any) -> LinearLayer | None:
        """Its gated DeltaNet, in three of four blocks."""
        found: LinearLayer | None = getattr(layer, "linear_attn", None)
        return found

    def shape_config(self, shape: str, number: Callable[[str], int] = lambda token: 0) -> Any:
        """Of a released checkpoint, or of a small one for CPUs."""
        from vqr1.policy.families._qwen3_5_shapes import shape_config

        return shape_config(shape, number)

    def text_extra(self, text: Any) -> TextExtra:
        """Attention's gate; gated DeltaNet, of which six products of a state count."""
        heads, size = text.linear_num_value_heads, text.linear_value_head_dim
        keys, values = text.linear_num_key_heads * text.linear_key_head_dim, heads * size
        inputs = 2 * keys + values
        return TextExtra(
            gate=text.num_attention_heads * text.head_dim,
            linear=text.layer_types.count("linear_attention"),
            weights=text.hidden_size * (inputs + 2 * values + 2 * heads),
            flops=6 * values * text.linear_key_head_dim,
            # Before and after the convolution and its activation; the recurrence's result, both
            # products of the norm, the gate, its activation and what it is multiplied with; beta.
            kept=3 * inputs + 6 * values + heads,
            # The decay, what it is made of, and the inverse norms.
            exact=4 * heads,
            state=values * text.linear_key_head_dim,
            inputs=(text.linear_conv_kernel_dim - 1) * inputs,
        )

    def tower_cost(self, config: Any, rule: ResizeRule, size: tuple[int, int] | None) -> TowerCost:
        """Full attention, a feed-forward layer without a gate, one merger."""
        vision = config.vision_config
        return full_attention_cost(
            vision,
            rule,
            size,
            width=vision.hidden_size,
            inner=vision.intermediate_size,
            out=vision.out_hidden_size,
            mergers=1,
        )

    def usage_code(self, facts: CardFacts) -> str:
        """With transformers and qwen-vl-utils."""
        return card.usage_code(facts, self.architecture, patch=PATCH)

    def usage_needs(self) -> str:
        """The first releases that know the family."""
        return "transformers 5.2 or later and qwen-vl-utils 0.0.14 or later"

    def usage_limitation(self, facts: CardFacts) -> str | None:
        """None: every release that knows the family numbers images."""
        del facts
        return None


FAMILY = Qwen35()
