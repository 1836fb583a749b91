"""What a model family declares: everything that a policy of it does in a way of its own.

A family is a stateless object: its methods are pure functions of a model, a configuration, a
processor or tensors, and hold nothing between calls. All other modules of the package ask it; none
names a family or its layout (`tests/test_floors.py`). What families have in common has its
implementation here: layers of Llama's form (`self_attn`, `mlp` and two norms, without biases of
their own), one text model that takes embeddings, image tokens whose embeddings image features
replace.

Shape legend: B images; T_b tokens of image b in the prompt; H hidden size of the text model; W
width of image features and of the rows that the text model is given: H, or several times H where
features go into several layers of the text model (they lie side by side, zero for text); P tokens
of a prompt; L rows of a packed row; X axes of rotary positions; n rows of a decoding step; Q query
heads, G key-value heads, D head size.

Not here: the registry (`__init__.py`), and what does not depend on the family: packed rows and
their attention, decoding, adapters, export (every family is exported through `save_pretrained`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from vqr1.data.prompts import ResizeRule
from vqr1.policy.chat_content import chat_messages
from vqr1.policy.families._records import AttentionRows, ImageEncoding, Parts, normalised_heads
from vqr1.policy.linear_attention import LinearLayer
from vqr1.policy.text_cost import TextExtra
from vqr1.policy.tower_cost import TowerCost

if TYPE_CHECKING:
    from vqr1.policy.model_card import CardFacts

__all__ = ["AttentionRows", "Family", "ImageEncoding", "Parts", "normalised_heads"]


class Family(ABC):
    """One model family; see the module's header.

    Attributes:
        title: the family's name in messages and on model cards.
        architecture: its class in transformers and in `config.json`, by which vLLM knows it too.
        released: hub names whose shapes are known without a download, with a name in `shapes`.
        shapes: names that `shape_config` takes.
        text_tokens: prompt tokens beside the image's of the published prompt, about.
        end_of_turn: special tokens that end a turn; the tokenizer's own where it has none of them.
        image_label: what the chat template writes before an image where it numbers images, with
            `{}` for the number, counted from 1; empty where it cannot.
        thinking_chosen: the chat template opens a block of reasoning, or closes it, as it is asked.
        position_axes: X.
        head_norms: queries and keys are normalised, each head by itself, before rotation.
        text_module: name of the text model's module.
    """

    title: ClassVar[str]
    architecture: ClassVar[str]
    released: ClassVar[Mapping[str, str]] = {}
    shapes: ClassVar[tuple[str, ...]] = ()
    text_tokens: ClassVar[int]
    end_of_turn: ClassVar[tuple[str, ...]]
    image_label: ClassVar[str] = ""
    thinking_chosen: ClassVar[bool] = False
    position_axes: ClassVar[int] = 1
    head_norms: ClassVar[bool] = False
    text_module: ClassVar[str] = "language_model"

    # The model and its parts

    def model_class(self) -> Any:
        """The class that loads and saves its checkpoints."""
        import transformers

        return getattr(transformers, self.architecture)

    def missing_library(self) -> str | None:
        """Which library this family needs that is not installed, and the fix; None: it has all."""
        return None

    @abstractmethod
    def parts(self, core: Any) -> Parts:
        """The modules of a model of this family."""

    def adapter_targets(self, names: Sequence[str]) -> str:
        """Regular expression of the text model's linear layers with these names, no tower's."""
        return rf".*\b{self.text_module}\..*\.({'|'.join(names)})"

    def fast_layers(self) -> Mapping[type[nn.Module], type[nn.Module]]:
        """Classes of layers, each with one that computes the same faster; none by default."""
        return {}

    def external_weights(self, parts: Parts) -> list[tuple[nn.Module, nn.Parameter]]:
        """Weights that a module other than their own uses, each with that module."""
        del parts
        return []

    # Images

    @abstractmethod
    def resize_rule(self, image_processor: Any, min_pixels: int, max_pixels: int) -> ResizeRule:
        """How images are resized.

        Args:
            image_processor: the checkpoint's; None takes the released checkpoints' numbers.
            min_pixels: `model.min_pixels`.
            max_pixels: `model.max_pixels`.
        """

    @abstractmethod
    def image_encoding(self, image_processor: Any) -> ImageEncoding:
        """What a checkpoint makes of images.

        Raises:
            ConfigError: its image processor asks for something that no pass here does.
        """

    def processor_problem(self, config: Any, processor: Any) -> str | None:
        """Why the images of a processor are not those of a model; None where they are.

        Args:
            config: the model's.
            processor: that of its folder, which `image_encoding` takes.
        """
        del config, processor
        return None

    @abstractmethod
    def released_encoding(self, config: Any) -> ImageEncoding:
        """The encoding of a model without an image processor: as in the released checkpoints."""

    @abstractmethod
    def image_features(self, core: Any, encoding: Any, images: Sequence[Tensor]) -> list[Tensor]:
        """The tower's pass over B images.

        Args:
            core: the model.
            encoding: of this family, as `image_encoding` gives it.
            images: B images [H_b, W_b, 3] uint8 on the tower's device.

        Returns:
            B tensors [T_b, W], differentiable in the tower's weights.
        """

    # Prompts

    @abstractmethod
    def most_tokens(self, processor: Any, rule: Any) -> int:
        """A bound of the tokens that any image gets (`image_ids`).

        Args:
            processor: the checkpoint's.
            rule: of this family, as `resize_rule` gives it for the checkpoint.
        """

    def chat_text(
        self,
        processor: Any,
        content: Sequence[Mapping[str, str]],
        vision_id: bool,
        system: str | None = None,
        thinking: bool | None = None,
    ) -> str:
        """The chat template around images and text, up to the assistant's turn.

        Args:
            processor: the checkpoint's.
            content: items of the user's message in order: `{"type": "image"}` for each image, and
                `{"type": "text", "text": ...}` (`vqr1.policy.chat_content`).
            vision_id: number the images, as `image_label` has it.
            system: a system message before it; None: what the template does without one.
            thinking: whether the template opens a block of reasoning; None: as by itself.

        Returns:
            Text with one image token of the tokenizer for each image.
        """
        text: str = processor.apply_chat_template(
            chat_messages(content, system),
            tokenize=False,
            add_generation_prompt=True,
            **self.template_options(vision_id, thinking),
        )
        return text

    @abstractmethod
    def image_ids(self, processor: Any, encoding: Any, image: Tensor) -> list[int]:
        """Tokens that take the place of one image token of the template.

        T_b image tokens, and whatever this family writes around and between them.

        Args:
            processor: the checkpoint's.
            encoding: of this family.
            image: [H, W, 3] uint8.
        """

    def image_token(self, config: Any) -> int:
        """Number of the token whose embedding image features replace."""
        return int(config.image_token_id)

    @abstractmethod
    def prompt_positions(
        self, config: Any, encoding: Any, input_ids: Tensor, images: Sequence[Tensor]
    ) -> tuple[Tensor, int]:
        """Rotary positions of a prompt.

        Args:
            config: the model's.
            encoding: of this family.
            input_ids: [P] tokens.
            images: the prompt's images [H_b, W_b, 3] in order.

        Returns:
            [X, P] positions and the position of the first response token, on whose axes all
            positions are equal and count up by one.

        Raises:
            ModelError: the prompt's image tokens do not match its images.
        """

    def embed(self, parts: Parts, tokens: Tensor) -> Tensor:
        """[L, W] rows of tokens [L], image tokens' to be replaced by `place_features`."""
        embeds: Tensor = parts.embeddings(tokens)
        return embeds

    def place_features(self, embeds: Tensor, rows: Tensor, features: Tensor) -> Tensor:
        """Image features in place of the image tokens' embeddings.

        Args:
            embeds: [L, W], as `embed` gives them.
            rows: [M] rows of image tokens, ascending.
            features: [M, W].

        Returns:
            [L, W].
        """
        return embeds.index_copy(0, rows, features)

    # The text model

    def run_text(self, text: Any, embeds: Tensor, positions: Tensor, **attention: Any) -> Tensor:
        """The text model over one packed row.

        Args:
            text: the text model, its attention switched to the plan.
            embeds: [L, W].
            positions: [X, L].
            attention: what its attention function is given.

        Returns:
            [L, H] after the final norm.
        """
        place = positions[:, None] if self.position_axes > 1 else positions
        output = text(
            inputs_embeds=embeds[None],
            position_ids=place,
            # A prepared mask for every layer type: the plan needs none.
            attention_mask=dict.fromkeys(getattr(text.config, "layer_types", ())),
            use_cache=False,
            **attention,
        )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden

    def response_rotation(
        self, text: Any, like: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Rotary tables after the prompts, where all axes are equal.

        Args:
            text: the text model.
            like: a tensor of the type and device that the tables shall have.
            positions: [B, C].

        Returns:
            [B, C, D] cosines and sines.
        """
        several = self.position_axes > 1
        place = positions.expand(self.position_axes, -1, -1) if several else positions
        cos, sin = text.rotary_emb(like, place)
        if cos.dim() == 4:
            # Older releases mix the axes later; after the prompt all axes are equal.
            cos, sin = cos[0], sin[0]
        return cos, sin

    def attention_inputs(self, attention: Any, hidden: Tensor) -> AttentionRows:
        """What one attention layer of the text model makes of its rows, before rotation.

        Args:
            attention: the layer's attention module.
            hidden: [n, H] normalised rows.
        """
        size = attention.head_dim
        both = torch.cat([attention.q_proj(hidden), attention.k_proj(hidden)], dim=-1)
        value = attention.v_proj(hidden)
        return AttentionRows(both.unflatten(-1, (-1, size)), value.unflatten(-1, (-1, size)))

    def linear_layer(self, layer: Any) -> LinearLayer | None:
        """The linear attention of a block of the text model; None where it attends by keys."""
        del layer
        return None

    # Servers

    def serving_problem(self, config: Any) -> str | None:
        """What vLLM lacks for a model's configuration: `no X models`; None where it has all."""
        del config
        return None

    def served_name(self, name: str) -> str:
        """A weight's name as vLLM loads it, of its name in the model.

        vLLM takes the names of the family's class in transformers and, by some releases of it,
        those of released checkpoints only.
        """
        return name

    def template_options(self, vision_id: bool, thinking: bool | None = None) -> dict[str, Any]:
        """Variables of the chat template that a server is given; see `chat_text`."""
        del vision_id
        return {} if thinking is None else {"enable_thinking": thinking}

    @abstractmethod
    def serving_arguments(self, rule: Any) -> dict[str, Any]:
        """Arguments with which vLLM's processor takes images that are resized already.

        Args:
            rule: of this family, as `resize_rule` gives it for the checkpoint.
        """

    # The planner and the model card

    def shape_config(self, shape: str, number: Callable[[str], int] = lambda token: 0) -> Any:
        """The configuration of a model of one of `shapes`.

        Args:
            shape: a name in `shapes`.
            number: id of a special token; the sizes of weights do not depend on it.

        Raises:
            KeyError: `shapes` has no such name.
        """
        raise KeyError(shape)

    def text_extra(self, text: Any) -> TextExtra:
        """What the text model's layers have beside those of Llama's form.

        Args:
            text: the text model's configuration.
        """
        del text
        return TextExtra()

    @abstractmethod
    def tower_cost(self, config: Any, rule: ResizeRule, size: tuple[int, int] | None) -> TowerCost:
        """What the tower computes and keeps for one image.

        Args:
            config: the model's.
            rule: how images are resized.
            size: width and height of the image on disk; None: the largest that the rule admits.
        """

    @abstractmethod
    def usage_code(self, facts: CardFacts) -> str:
        """Python that scores images with this checkpoint by published libraries alone."""

    @abstractmethod
    def usage_needs(self) -> str:
        """What `usage_code` needs, such as `transformers 4.49 or later`."""

    def usage_limitation(self, facts: CardFacts) -> str | None:
        """What in `usage_code` differs between releases of those libraries."""
        del facts
        return None
