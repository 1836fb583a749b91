"""What a model card states about use by transformers and qwen-vl-utils alone.

Not here: the rest of the card (`vqr1.policy.model_card`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vqr1.policy.families._card_prompt import example_call, prompt_constants

if TYPE_CHECKING:
    from vqr1.policy.model_card import CardFacts

NEEDS = "transformers 4.49 or later and qwen-vl-utils"


def limitation(facts: CardFacts) -> str | None:
    """What differs between releases; see `Family.usage_limitation`."""
    if not facts.vision_id:
        return None
    return """\
- transformers 4.49 ignores `add_vision_id`, so its prompt lacks the words `Picture 1: `; later
  releases give the prompt of the training."""


def usage_code(facts: CardFacts, architecture: str, *, patch: int = 14) -> str:
    """Python that scores images with the checkpoint; see `Family.usage_code`.

    Args:
        facts: of the checkpoint.
        architecture: its class in transformers.
        patch: edge of a patch in pixels. With another than qwen-vl-utils takes by itself, the
            processor must leave the resized images as they are: its own area limits are others.
    """
    own = patch != 14
    vision = f", image_patch_size={patch}" if own else ""
    thinking = facts.enable_thinking
    chosen = f"add_vision_id={facts.vision_id}"
    if thinking is not None:
        chosen = f"{chosen}, enable_thinking={thinking}"
    arguments = 'text=text, images=images, videos=videos, padding=True, return_tensors="pt"'
    if own:
        arguments = f"\n        {arguments}, do_resize=False\n    "
    return f"""\
from qwen_vl_utils import process_vision_info
from transformers import AutoProcessor, {architecture}

FOLDER = "."  # this checkpoint: its folder or hub name
{prompt_constants(facts)}

model = {architecture}.from_pretrained(FOLDER, torch_dtype="auto")
processor = AutoProcessor.from_pretrained(FOLDER)
processor.tokenizer.padding_side = "left"


SIZES = {{"min_pixels": {facts.min_pixels}, "max_pixels": {facts.max_pixels}}}


def answers(prompts):
    messages = []
    for paths in prompts:
        rest = iter(paths)
        content = [
            {{**item, "image": next(rest), **SIZES}} if item["type"] == "image" else item
            for item in CONTENT
        ]
        messages.append([*SYSTEM, {{"role": "user", "content": content}}])
    text = [
        processor.apply_chat_template(
            message, tokenize=False, add_generation_prompt=True, {chosen}
        )
        for message in messages
    ]
    images, videos = process_vision_info(messages{vision})
    inputs = processor({arguments})
    inputs = inputs.to(model.device)
    # Greedy, and without the repetition penalty that a checkpoint's generation config may hold.
    ids = model.generate(
        **inputs, max_new_tokens={facts.max_new_tokens}, do_sample=False, repetition_penalty=1.0
    )
    return processor.batch_decode(ids[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)


{example_call(facts)}"""
