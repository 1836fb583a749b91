"""LLaVA (arXiv 2310.03744): LLaVA-1.5 7B and checkpoints of its form.

A CLIP or SigLIP tower, of which one or several layers are taken, a projector of two layers; Llama
or Qwen2. LLaVA-NeXT and LLaVA-OneVision cut images into tiles and are families of their own.

Not here: what LLaVA's families share (`_llava_family.py`).
"""

from __future__ import annotations

from typing import Any

from vqr1.policy.families._llava_family import LlavaFamily


class Llava(LlavaFamily):
    """See the module's header; signatures are explained in `base.py`."""

    title = "LLaVA"
    architecture = "LlavaForConditionalGeneration"
    released = {"llava-hf/llava-1.5-7b-hf": "7b"}  # noqa: RUF012 (a class variable of the base)
    shapes = ("36m", "7b")
    # A tower of timm gives maps, whose channels this model's projector takes for columns.
    towers = ("clip_vision_model", "siglip_vision_model")

    def model_type(self) -> str:
        """As in `config.json`."""
        return "llava"

    def tower_layers(self, tower: Any) -> Any:
        """Blocks of CLIP and SigLIP."""
        return getattr(tower, "vision_model", tower).encoder.layers

    def released_processor(self) -> Any:
        """The centre of an image whose short side has 336 pixels, normalised as CLIP's."""
        from transformers import CLIPImageProcessor

        return CLIPImageProcessor(
            size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
        )

    def serving_problem(self, config: Any) -> str | None:
        """VLLM's projector takes one layer of the tower."""
        layers = config.vision_feature_layer
        if isinstance(layers, int) or len(layers) == 1:
            return None
        return f"no {self.title} with several layers of the tower (vision_feature_layer={layers})"

    def served_name(self, name: str) -> str:
        """Towers are one module deeper in released checkpoints than in transformers."""
        _, tower, rest = name.partition("model.vision_tower.")
        if not tower or rest.startswith("vision_model."):
            return name
        return f"{tower}vision_model.{rest}"

    def usage_needs(self) -> str:
        """The first release whose processors have chat templates."""
        return "transformers 4.45 or later"


FAMILY = Llava()
