"""What LLaVA's families share: a tower, a projector of two layers, a text model of Llama's form.

Not here: images (`_llava_images.py`), prompts (`_llava_prompts.py`), the planner's counts
(`_llava_cost.py`), released shapes, and what each family has of its own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vqr1.data.prompts import ResizeRule
from vqr1.errors import ModelError, first_line
from vqr1.policy.families import _llava_card as card
from vqr1.policy.families import _llava_prompts as prompts
from vqr1.policy.families._llava_images import (
    FixedEncoding,
    FixedRule,
    fixed_rule,
    fixed_size,
)
from vqr1.policy.families.base import Family, Parts
from vqr1.policy.tower_cost import TowerCost

if TYPE_CHECKING:
    from vqr1.policy.model_card import CardFacts

TEXT_TYPES = ("llama", "qwen2")
"""Text models that the passes compute: full attention, one norm before each half of a layer."""


class LlavaFamily(Family):
    """See the module's header; signatures are explained in `base.py`.

    Attributes:
        towers: `model_type` of towers that the family's model can use.
    """

    text_tokens = 110
    end_of_turn = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "</s>")
    towers: ClassVar[tuple[str, ...]]

    def parts(self, core: Any) -> Parts:
        """Tower and projector are two modules.

        Raises:
            ModelError: a text model or a tower that no pass here computes.
        """
        text, tower = core.model.language_model, core.model.vision_tower
        self._check_parts(text.config.model_type, tower.config.model_type)
        return Parts(
            text=text,
            embeddings=text.embed_tokens,
            head=core.lm_head,
            text_layers=text.layers,
            vision=nn.ModuleList([tower, core.model.multi_modal_projector]),
            vision_layers=self.tower_layers(tower),
            connector=core.model.multi_modal_projector,
        )

    def _check_parts(self, text: str, tower: str) -> None:
        if text not in TEXT_TYPES:
            raise ModelError(
                f"model: the text model of this {self.title} is a {text}; the passes here compute "
                f"{' and '.join(TEXT_TYPES)}; choose another checkpoint with model.path"
            )
        if tower not in self.towers:
            raise ModelError(
                f"model: the vision tower of this {self.title} is a {tower}; the passes here "
                f"compute {' and '.join(self.towers)}; choose another checkpoint with model.path"
            )

    @abstractmethod
    def tower_layers(self, tower: Any) -> Any:
        """Blocks of the tower."""

    @abstractmethod
    def released_processor(self) -> Any:
        """The image processor of the released checkpoints."""

    def fast_layers(self) -> Mapping[type[nn.Module], type[nn.Module]]:
        """Norms and feed-forward layers of the text model."""
        from vqr1.policy.families._text_layers import FAST_LAYERS

        return FAST_LAYERS

    def resize_rule(self, image_processor: Any, min_pixels: int, max_pixels: int) -> FixedRule:
        """Every image gets one size, which the limits must admit."""
        processor = self.released_processor() if image_processor is None else image_processor
        return fixed_rule(processor, self.title, min_pixels, max_pixels)

    def image_encoding(self, image_processor: Any) -> FixedEncoding:
        """Normalisation, as the checkpoint's numbers ask for it."""
        return FixedEncoding.of(image_processor, self.title)

    def processor_problem(self, config: Any, processor: Any) -> str | None:
        """Images of another size than the tower's, or another number of tokens than its rows.

        Raises:
            ModelError: the tower that `config.json` describes cannot be built or run.
        """
        width, height = fixed_size(processor.image_processor, self.title)
        side = getattr(config.vision_config, "image_size", None)
        if side is not None and (width, height) != (side, side):
            return (
                f"its image processor makes images of {width} x {height} pixels, the model's tower "
                f"takes {side} x {side}"
            )
        from vqr1.policy.families._llava_cost import rows_of

        tokens = prompts.tokens_of_size(processor, width, height)
        try:
            rows = rows_of(self, config, (width, height))
        except (AssertionError, ImportError, RuntimeError, ValueError) as error:
            raise ModelError(
                f"model: the tower that config.json describes does not take images of {width} x "
                f"{height} pixels ({first_line(error)}); choose another checkpoint with model.path"
            ) from error
        if tokens == rows:
            return None
        return (
            f"its processor counts {tokens} tokens for an image of {width} x {height} pixels "
            f"(patch_size {processor.patch_size}), the model's tower gives {rows}"
        )

    def released_encoding(self, config: Any) -> FixedEncoding:
        """That of the released checkpoints."""
        del config
        return FixedEncoding.of(self.released_processor(), self.title)

    def image_features(
        self, core: Any, encoding: FixedEncoding, images: Sequence[Tensor]
    ) -> list[Tensor]:
        """[T, H] of each image, after the projector."""
        keep_statistics(core.model.vision_tower)
        output = core.model.get_image_features(encoding.encode(images), return_dict=True)
        return list(output.pooler_output)

    def most_tokens(self, processor: Any, rule: FixedRule) -> int:
        """As many for every image."""
        return prompts.tokens_of_size(processor, rule.width, rule.height)

    def chat_text(
        self,
        processor: Any,
        content: Sequence[Mapping[str, str]],
        vision_id: bool,
        system: str | None = None,
        thinking: bool | None = None,
    ) -> str:
        """The checkpoint's own template, which cannot number images.

        Raises:
            ConfigError: there is none.
        """
        prompts.check_template(processor)
        return super().chat_text(processor, content, vision_id, system, thinking)

    def image_ids(self, processor: Any, encoding: FixedEncoding, image: Tensor) -> list[int]:
        """One image token for each row that the tower gives."""
        count = prompts.tokens_of_size(processor, image.shape[1], image.shape[0])
        return [int(processor.image_token_id)] * count

    def prompt_positions(
        self, config: Any, encoding: FixedEncoding, input_ids: Tensor, images: Sequence[Tensor]
    ) -> tuple[Tensor, int]:
        """Text and image tokens in a row."""
        return prompts.row_positions(input_ids, self.image_token(config), len(images))

    def serving_arguments(self, rule: FixedRule) -> dict[str, Any]:
        """None: what the processor does to an image that has its size already is nothing."""
        del rule
        return {}

    def tower_cost(self, config: Any, rule: ResizeRule, size: tuple[int, int] | None) -> TowerCost:
        """Counted on the meta device; every image costs the same."""
        from vqr1.policy.families._llava_cost import tower_cost

        assert isinstance(rule, FixedRule)
        del size
        return tower_cost(self, config, (rule.width, rule.height))

    def shape_config(self, shape: str, number: Callable[[str], int] = lambda token: 0) -> Any:
        """Of a released checkpoint, or of a small one for CPUs."""
        from vqr1.policy.families import _llava_shapes as shapes

        made: Any = getattr(shapes, f"{self.model_type()}_config")(shape, number)
        return made

    @abstractmethod
    def model_type(self) -> str:
        """As in `config.json`."""

    def usage_code(self, facts: CardFacts) -> str:
        """With transformers."""
        return card.usage_code(facts, self.architecture)


def keep_statistics(tower: nn.Module) -> None:
    """Keeps a tower's batch norms at their running statistics, whatever mode the model is in.

    Statistics of a batch would make an image's features depend on the images beside it, so that
    rollout, reference and update differ, and would move with every pass, so that a resumed run
    ends elsewhere. Factors and shifts train all the same.
    """
    for module in tower.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
