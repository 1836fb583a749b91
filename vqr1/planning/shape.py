"""What is planned: a model's shape, and the work of one process in one step.

Weights are counted on PyTorch's `meta` device, which holds shapes and no numbers: nothing is
downloaded or allocated. The released models' shapes come from a table, others from `config.json`.

Not here: bytes (`memory.py`) and seconds (`speed.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration

from vqr1.config import LoraConfig, ModelConfig, PromptConfig, TrainConfig
from vqr1.data.patches import PATCH
from vqr1.data.prompts import QWEN_FACTOR, PromptBuilder, ResizeRule
from vqr1.distributed.hardware import share_of_step, share_problem
from vqr1.errors import ConfigError, ModelError
from vqr1.planning.released import shape_config
from vqr1.policy.loading import PROCESSOR_FILE, load_processor
from vqr1.policy.tiny import tiny_policy_folder
from vqr1.policy.training_prompt import vision_id_of

RELEASED = {
    "Qwen/Qwen2.5-VL-3B-Instruct": "3b",
    "Qwen/Qwen2.5-VL-7B-Instruct": "7b",
    "TianheWu/VisualQuality-R1-7B": "7b",
}
"""Names on the hub whose shape is known without a download (the second half: `released.py`)."""

TEXT_TOKENS = 110
"""Prompt tokens beside the image: system turn, question and instruction of the published prompt
with Qwen2.5's tokenizer."""


@dataclass(frozen=True)
class ModelShape:
    """A policy's configuration and its weights, counted.

    Attributes:
        config: its `Qwen2_5_VLConfig`.
        embedding: numbers in the token embedding.
        head: numbers in the output head; 0 where it shares the embedding's.
        text: numbers in the blocks of the text model.
        vision: numbers in the vision tower and its merger.
        adapters: numbers in the adapters; 0 without.
    """

    config: Any
    embedding: int
    head: int
    text: int
    vision: int
    adapters: int

    @property
    def total(self) -> int:
        """All numbers but the adapters'."""
        return self.embedding + self.head + self.text + self.vision


@dataclass(frozen=True)
class Work:
    """What one process does in one step, at its longest.

    Attributes:
        images: B of this process.
        group: K.
        patches: patches of one image before merging.
        text_tokens: tokens of a prompt beside the image's.
        response: C, the length limit.
    """

    images: int
    group: int
    patches: int
    text_tokens: int
    response: int

    @property
    def prompt(self) -> int:
        """Tokens of one prompt."""
        return self.patches // 4 + self.text_tokens

    @property
    def tokens(self) -> int:
        """Tokens of prompts, once, and of all responses."""
        return self.images * self.entries

    @property
    def entries(self) -> int:
        """Tokens of one image's prompt and its K responses."""
        return self.prompt + self.group * self.response


def read_shape(config: ModelConfig) -> ModelShape:
    """The shape of a model, without its weights.

    Raises:
        ModelError: neither a folder with a `config.json` nor a released model.
    """
    found = _model_config(config)
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(found)
    text = model.model.language_model
    tied = model.lm_head.weight is text.embed_tokens.weight
    return ModelShape(
        found,
        embedding=text.embed_tokens.weight.numel(),
        head=0 if tied else model.lm_head.weight.numel(),
        text=sum(p.numel() for p in (*text.layers.parameters(), *text.norm.parameters())),
        vision=sum(p.numel() for p in model.model.visual.parameters()),
        adapters=0 if config.lora is None else _adapters(text, config.lora),
    )


def _model_config(config: ModelConfig) -> Any:
    source = str(tiny_policy_folder()) if config.path is None else config.path
    if source in RELEASED:
        return shape_config(RELEASED[source])
    if not (Path(source) / "config.json").is_file():
        raise ModelError(
            f"model.path={source}: the shape of this model is not known; give a folder with its "
            f"config.json, or one of {', '.join(RELEASED)}"
        )
    return AutoConfig.from_pretrained(source, trust_remote_code=False)


def _adapters(text: nn.Module, lora: LoraConfig) -> int:
    layers = [
        layer
        for name, layer in text.named_modules()
        if isinstance(layer, nn.Linear) and name.rpartition(".")[2] in lora.target_modules
    ]
    return sum(lora.rank * (layer.in_features + layer.out_features) for layer in layers)


def text_tokens(model: ModelConfig, prompt: PromptConfig) -> int:
    """Tokens of a prompt beside the image's: counted where the model's tokenizer is at hand."""
    if model.path is not None and not (Path(model.path) / PROCESSOR_FILE).is_file():
        return TEXT_TOKENS
    builder = PromptBuilder(
        load_processor(model),
        prompt.text,
        model.min_pixels,
        model.max_pixels,
        vision_id=vision_id_of(prompt, model),
    )
    return len(builder.token_ids(0))


def share_of_work(config: TrainConfig, size: tuple[int, int] | None = None) -> Work:
    """What one process does.

    Args:
        config: the training's configuration.
        size: width and height of the pictures as they are on disk; None plans for the largest that
            `model.max_pixels` admits.

    Raises:
        ConfigError: the processes cannot share `loader.images_per_step`.
    """
    hardware, model = config.hardware, config.model
    images, wanted = config.loader.images_per_batch, config.loader.images_per_step
    if wanted is not None:
        processes = hardware.devices * hardware.nodes
        share = share_of_step(wanted, processes)
        if share is None:
            raise ConfigError([share_problem(wanted, processes)])
        images = share
    pixels = model.max_pixels // QWEN_FACTOR**2 * QWEN_FACTOR**2
    if size is not None:
        width, height = ResizeRule(QWEN_FACTOR, model.min_pixels, model.max_pixels).size(*size)
        pixels = width * height
    return Work(
        images,
        config.grpo.group_size,
        pixels // PATCH**2,
        text_tokens(model, config.prompt),
        config.rollout.sampling.max_new_tokens,
    )
