"""Floating-point operations that a step needs, counted from shapes.

A multiply and an add are two operations. Counted: matrix products of linear layers, of attention
(only pairs that see each other) and of the output head. Not counted: norms, activations, rotary
embedding, sampling, optimiser; recomputation is never counted.

    forward  of image and prompt once and K responses:  V + P + R
    rollout = reference = V + P + R,   update = 3 (V + P + R), of which V is shared with the rollout
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StepFlops:
    """Operations of one forward pass over a batch, in parts.

    Attributes:
        vision: vision tower and merger, every image once.
        prompt: text model over the prompts.
        responses: text model over K responses an image, and their logits.
    """

    vision: float
    prompt: float
    responses: float

    @property
    def forward(self) -> float:
        """One pass over images, prompts and responses."""
        return self.vision + self.prompt + self.responses

    @property
    def update(self) -> float:
        """Forward and backward, without the tower's forward pass, which the rollout did."""
        return 3 * self.forward - self.vision

    @property
    def step(self) -> float:
        """Rollout, reference and update."""
        return 2 * self.forward + self.update


def _vision_flops(config: Any, patches: int, images: int) -> float:
    """Operations of the tower on one image of `patches` patches, times images."""
    width, inner, depth = config.hidden_size, config.intermediate_size, config.depth
    merged = config.spatial_merge_size**2
    embed = config.in_channels * config.temporal_patch_size * config.patch_size**2 * width
    linear = depth * (4 * width**2 + 3 * width * inner) + embed
    merger = (merged * width) ** 2 + merged * width * config.out_hidden_size
    window = (config.window_size // config.patch_size) ** 2
    full = len(config.fullatt_block_indexes)
    pairs = full * patches + (depth - full) * min(window, patches)
    per_image = 2 * patches * linear + 2 * patches / merged * merger + 4 * width * patches * pairs
    return images * per_image


def step_flops(config: Any, patches: int, prompt: int, images: int, group: int, tokens: int) -> Any:
    """Operations of a step.

    Args:
        config: the model's configuration.
        patches: patches of one image before merging.
        prompt: tokens of one prompt.
        images: B.
        group: K.
        tokens: C, tokens of each response.
    """
    text = config.text_config
    width, layers = text.hidden_size, text.num_hidden_layers
    head = width // text.num_attention_heads
    linear = layers * (
        2 * width**2 + 2 * width * head * text.num_key_value_heads
        + 3 * width * text.intermediate_size
    )  # fmt: skip
    # The last token of a response is never fed.
    fed = tokens - 1
    prompt_pairs = prompt * (prompt + 1) / 2
    response_pairs = fed * prompt + fed * (fed + 1) / 2
    rows = images * group
    logits = 2 * width * text.vocab_size * (images + rows * fed)
    return StepFlops(
        _vision_flops(config.vision_config, patches, images),
        images * (2 * prompt * linear + 4 * width * layers * prompt_pairs),
        rows * (2 * fed * linear + 4 * width * layers * response_pairs) + logits,
    )
