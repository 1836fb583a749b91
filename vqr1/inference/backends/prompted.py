"""What backends share that build prompts for a policy's own processor.

Not here: sending prompts and reading replies (`local.py`, `vllm.py`).
"""

from __future__ import annotations

from PIL import Image
from torch import Tensor

from vqr1.data.prompts import ResizeRule
from vqr1.inference.request import Request
from vqr1.policy.prompts import PromptBuilders


class PromptedBackend:
    """A backend whose images are resized and whose prompts are built by a policy's processor.

    Args:
        builders: of the policy.
    """

    def __init__(self, builders: PromptBuilders) -> None:
        self._builders = builders

    @property
    def rule(self) -> ResizeRule:
        """See `Backend.rule`."""
        return self._builders.rule

    def resize(self, image: Image.Image) -> Tensor:
        """See `Backend.resize`."""
        return self._builders.rule.pixels(image)

    def prepare(self, request: Request) -> None:
        """Build what the prompt needs; see `Backend.prepare`.

        Raises:
            ConfigError: a prompt text that the processor cannot use.
        """
        self._builders.of(request.prompt)
