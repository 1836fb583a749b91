"""Floating-point operations that a step needs, counted from shapes.

A multiply and an add are two operations. Counted: matrix products of linear layers, of attention
(only pairs that see each other) and of the output head. Not counted: norms, activations, rotary
embedding, sampling, optimiser; recomputation is never counted. Linear attention is counted token by
token: six operations for each number of its state, more in chunks.

    forward  of image and prompt once and K responses:  V + P + R
    rollout = reference = V + P + R,   update = 3 (V + P + R), of which V is shared with the rollout

A trainer that sends image and prompt through the model once for each response computes `unshared`:
the passes of B x K images with one response each, nothing shared between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vqr1.policy.text_cost import TextExtra

NO_EXTRA = TextExtra()
"""Of a text model of Llama's form."""


@dataclass(frozen=True)
class StepFlops:
    """Operations of one forward pass over a batch, in parts.

    Attributes:
        vision: vision tower, every image once.
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

    @property
    def unshared(self) -> float:
        """Rollout, reference and update, where no pass takes anything from another."""
        return 5 * self.forward


def attention_widths(text: Any) -> tuple[int, int]:
    """Numbers of one row's queries, and of its keys (its values have as many).

    Args:
        text: the text model's configuration; heads may be wider than their share of the row.
    """
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return text.num_attention_heads * head, text.num_key_value_heads * head


def step_flops(
    config: Any,
    vision: float,
    prompt: int,
    images: int,
    group: int,
    tokens: int,
    extra: TextExtra = NO_EXTRA,
) -> StepFlops:
    """Operations of a step.

    Args:
        config: the model's configuration.
        vision: operations of the tower's forward pass on one image (`TowerCost.flops`).
        prompt: tokens of one prompt.
        images: B.
        group: K.
        tokens: C, tokens of each response.
        extra: of the family (`Family.text_extra`).
    """
    text = config.text_config
    width, layers = text.hidden_size, text.num_hidden_layers - extra.linear
    queries, keys = attention_widths(text)
    feed_forward = 3 * width * text.intermediate_size
    linear = layers * (width * (2 * (queries + keys) + extra.gate) + feed_forward)
    # Half of the recurrence's operations: products of matrices are counted twice below.
    linear += extra.linear * (extra.weights + feed_forward + extra.flops / 2)
    # The last token of a response is never fed.
    fed = tokens - 1
    prompt_pairs = prompt * (prompt + 1) / 2
    response_pairs = fed * prompt + fed * (fed + 1) / 2
    rows = images * group
    logits = 2 * width * text.vocab_size * (images + rows * fed)
    return StepFlops(
        images * vision,
        images * (2 * prompt * linear + 4 * queries * layers * prompt_pairs),
        rows * (2 * fed * linear + 4 * queries * layers * response_pairs) + logits,
    )
