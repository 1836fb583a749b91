"""What a model card states about use by transformers alone.

Not here: the rest of the card (`vqr1.policy.model_card`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vqr1.policy.families._card_prompt import processor_code

if TYPE_CHECKING:
    from vqr1.policy.model_card import CardFacts


def usage_code(facts: CardFacts, architecture: str) -> str:
    """Python that scores images with the checkpoint; see `Family.usage_code`."""
    size = f"""\

# The largest image of whole tiles within the training's {facts.max_pixels} pixels.
tile = processor.image_processor.max_image_size["longest_edge"]
longest = math.isqrt({facts.max_pixels}) // tile * tile
size = {{"longest_edge": min(longest, processor.image_processor.size["longest_edge"])}}
"""
    nested = '[[Image.open(path).convert("RGB") for path in paths] for paths in prompts]'
    return processor_code(facts, architecture, images=nested, options="size=size, ", before=size)
