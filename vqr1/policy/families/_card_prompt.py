"""The prompt of a checkpoint as Python for its model card, the same for every family.

Not here: the rest of that code (`_*_card.py` of each family).
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


def _wrapped(text: str) -> list[str]:
    """A text in lines that join to it again."""
    return textwrap.wrap(
        text, 76, drop_whitespace=False, replace_whitespace=False, expand_tabs=False
    ) or [""]
