"""Keys of the policy's own votes on pairs of images (`votes`, with `target=self_vote`)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic.dataclasses import dataclass

from vqr1.config.model import PromptConfig
from vqr1.config.types import STRICT_KEYS, PositiveInt


@dataclass(config=STRICT_KEYS, kw_only=True)
class VotesConfig:
    """The votes that a training is rewarded by."""

    by: Literal["comparisons", "scores"] = "comparisons"
    """`comparisons`: the policy is shown both images, half of the votes in each order (EvoQuality).
    `scores`: it scores each image by the training's own prompt, and every score of the one image
    against every score of the other is a vote."""
    count: PositiveInt = 32
    """K: comparisons of a pair, or scores of an image."""
    pairs_per_image: PositiveInt = 16
    """Random pairs that each training image is in, about; all pairs where it has no more partners.
    Only images with a pair are compared in a step."""
    rounds: PositiveInt = 1
    """Trainings one after the other, each on votes of the weights of the one before, on other pairs
    (`seed`, `seed` + 1000 and so on)."""
    text: str = ""
    """Question of a comparison; the answer has to be 0 where the first image is better, else 1.
    `<image>` as in `prompt.text`, of two images."""

    def comparison_prompt(self, prompt: PromptConfig) -> PromptConfig:
        """The prompt of a comparison, numbered and written as the training's own."""
        return replace(prompt, name="comparison", images=2, text=self.text, system=None)
