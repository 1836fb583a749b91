"""The first SmolVLM: 256M and 500M Instruct, which have the layout of Idefics3 (arXiv 2408.12637).

Everything is as in `smolvlm.py` but the classes of transformers and the released checkpoints.

Not here: Idefics3-8B's tokenizer, which puts a token of its own before every prompt.
"""

from __future__ import annotations

from vqr1.policy.families.smolvlm import SmolVLM


class Idefics3(SmolVLM):
    """See the module's header; signatures are explained in `base.py`."""

    title = "SmolVLM"
    architecture = "Idefics3ForConditionalGeneration"
    released = {  # noqa: RUF012 (a class variable of the base)
        "HuggingFaceTB/SmolVLM-256M-Instruct": "256m",
        "HuggingFaceTB/SmolVLM-500M-Instruct": "500m",
    }

    def usage_needs(self) -> str:
        """The first release that knows the family."""
        return "transformers 4.49 or later and Pillow"


FAMILY = Idefics3()
