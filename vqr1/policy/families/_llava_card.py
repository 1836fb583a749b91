"""What a model card states about use by transformers alone.

Not here: the rest of the card (`vqr1.policy.model_card`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vqr1.policy.families._card_prompt import example_call, prompt_constants

if TYPE_CHECKING:
    from vqr1.policy.model_card import CardFacts

OWN_TOWERS = """\
- Where `config.json` names a tower that vqr1 registers with timm (`*_stages`),
  `import vqr1.policy.towers` has to come before the checkpoint is loaded."""


def usage_code(facts: CardFacts, architecture: str) -> str:
    """Python that scores images with the checkpoint; see `Family.usage_code`."""
    return f"""\
from PIL import Image
from transformers import AutoProcessor, {architecture}

FOLDER = "."  # this checkpoint: its folder or hub name
{prompt_constants(facts)}

model = {architecture}.from_pretrained(FOLDER, torch_dtype="auto")
processor = AutoProcessor.from_pretrained(FOLDER)
processor.tokenizer.padding_side = "left"


def answers(prompts):
    messages = [*SYSTEM, {{"role": "user", "content": CONTENT}}]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    images = [Image.open(path).convert("RGB") for paths in prompts for path in paths]
    inputs = processor(
        images=images, text=[text] * len(prompts), padding=True, return_tensors="pt"
    )
    inputs = inputs.to(model.device, model.dtype)
    # Greedy, and without the repetition penalty that a checkpoint's generation config may hold.
    ids = model.generate(
        **inputs, max_new_tokens={facts.max_new_tokens}, do_sample=False, repetition_penalty=1.0
    )
    return processor.batch_decode(ids[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)


{example_call(facts)}"""
