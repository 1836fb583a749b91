"""What the Python on model cards has in common: a checkpoint's prompt, and use by its processor.

Not here: what families have of their own in it (`_llava_card.py`, `_smolvlm_card.py`), and code
that needs further libraries (`_qwen2_5_vl_card.py`).
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from vqr1.policy.chat_content import chat_content

if TYPE_CHECKING:
    from vqr1.policy.model_card import CardFacts


def prompt_constants(facts: CardFacts) -> str:
    """`CONTENT`, the items of the user's message, and `SYSTEM`, the messages before it."""
    lines = ["CONTENT = ["]
    for item in chat_content(facts.prompt, facts.images):
        if item["type"] == "image":
            lines.append('    {"type": "image"},')
        else:
            lines += ["    {", '        "type": "text",', '        "text": (']
            lines += [f"            {part!r}" for part in _wrapped(item["text"])]
            lines += ["        ),", "    },"]
    lines.append("]")
    if facts.system is None:
        return "\n".join([*lines, "SYSTEM = []"])
    parts = [f"    {part!r}" for part in _wrapped(facts.system)]
    text = "\n".join(["SYSTEM_TEXT = (", *parts, ")"])
    only = '{"type": "text", "text": SYSTEM_TEXT}'
    return "\n".join([*lines, text, f'SYSTEM = [{{"role": "system", "content": [{only}]}}]'])


def example_call(facts: CardFacts) -> str:
    """The line that asks about the images of one prompt."""
    names = ["photo.png"]
    if facts.images > 1:
        names = [f"image_{number}.png" for number in range(1, facts.images + 1)]
    listed = ", ".join(f'"{name}"' for name in names)
    return f"print(answers([[{listed}]]))  # the images of each prompt, in order"


def processor_code(
    facts: CardFacts, architecture: str, *, images: str, options: str = "", before: str = ""
) -> str:
    """Python that scores images with transformers alone; see `Family.usage_code`.

    Args:
        facts: of the checkpoint.
        architecture: its class in transformers.
        images: expression of the images that the processor takes, of `prompts`.
        options: further arguments of the processor.
        before: lines before the function, which has the model's `processor`.
    """
    math = "import math\n\n" if "math." in before else ""
    given = f"text=[text] * len(prompts), images=images, {options}padding=True"
    return f"""\
{math}from PIL import Image
from transformers import AutoProcessor, {architecture}

FOLDER = "."  # this checkpoint: its folder or hub name
{prompt_constants(facts)}

model = {architecture}.from_pretrained(FOLDER, torch_dtype="auto")
processor = AutoProcessor.from_pretrained(FOLDER)
processor.tokenizer.padding_side = "left"
{before}

def answers(prompts):
    messages = [*SYSTEM, {{"role": "user", "content": CONTENT}}]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    images = {images}
    inputs = processor(
        {given}, return_tensors="pt"
    )
    inputs = inputs.to(model.device, model.dtype)
    # Greedy, and without the repetition penalty that a checkpoint's generation config may hold.
    ids = model.generate(
        **inputs, max_new_tokens={facts.max_new_tokens}, do_sample=False, repetition_penalty=1.0
    )
    return processor.batch_decode(ids[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)


{example_call(facts)}"""


def _wrapped(text: str) -> list[str]:
    """A text in lines that join to it again."""
    return textwrap.wrap(
        text, 76, drop_whitespace=False, replace_whitespace=False, expand_tabs=False
    ) or [""]
