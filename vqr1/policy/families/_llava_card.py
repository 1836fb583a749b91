"""What a model card states about use by transformers alone.

Not here: the rest of the card (`vqr1.policy.model_card`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vqr1.policy.families._card_prompt import processor_code

if TYPE_CHECKING:
    from vqr1.policy.model_card import CardFacts

OWN_TOWERS = """\
- Where `config.json` names a tower that vqr1 registers with timm (`*_stages`),
  `import vqr1.policy.towers` has to come before the checkpoint is loaded."""


def usage_code(facts: CardFacts, architecture: str) -> str:
    """Python that scores images with the checkpoint; see `Family.usage_code`."""
    flat = '[Image.open(path).convert("RGB") for paths in prompts for path in paths]'
    return processor_code(facts, architecture, images=flat)
