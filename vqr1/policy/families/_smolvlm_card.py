"""What a model card states about use by transformers alone.

Not here: the rest of the card (`vqr1.policy.model_card`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vqr1.policy.families._card_prompt import example_call, prompt_constants

if TYPE_CHECKING:
    from vqr1.policy.model_card import CardFacts


def usage_code(facts: CardFacts, architecture: str) -> str:
    """Python that scores images with the checkpoint; see `Family.usage_code`."""
    return f"""\
import math

from PIL import Image
from transformers import AutoProcessor, {architecture}

FOLDER = "."  # this checkpoint: its folder or hub name
{prompt_constants(facts)}

model = {architecture}.from_pretrained(FOLDER, torch_dtype="auto")
processor = AutoProcessor.from_pretrained(FOLDER)
processor.tokenizer.padding_side = "left"

# The largest image of whole tiles within the training's {facts.max_pixels} pixels.
tile = processor.image_processor.max_image_size["longest_edge"]
longest = min(math.isqrt({facts.max_pixels}), processor.image_processor.size["longest_edge"])
size = {{"longest_edge": longest // tile * tile}}


def answers(prompts):
    messages = [*SYSTEM, {{"role": "user", "content": CONTENT}}]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    images = [[Image.open(path).convert("RGB") for path in paths] for paths in prompts]
    inputs = processor(
        text=[text] * len(prompts), images=images, size=size, padding=True, return_tensors="pt"
    )
    inputs = inputs.to(model.device, model.dtype)
    # Greedy, and without the repetition penalty that a checkpoint's generation config may hold.
    ids = model.generate(
        **inputs, max_new_tokens={facts.max_new_tokens}, do_sample=False, repetition_penalty=1.0
    )
    return processor.batch_decode(ids[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)


{example_call(facts)}"""
