"""What is planned: a model's shape, and the work of one process in one step.

Weights are counted on PyTorch's `meta` device, which holds shapes and no numbers: nothing is
downloaded or allocated. The released models' shapes come from their family, others from
`config.json`.

Not here: bytes (`memory.py`) and seconds (`speed.py`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vqr1.config import LoraConfig, ModelConfig, PromptConfig, TrainConfig
from vqr1.data.prompts import ResizeRule
from vqr1.distributed.hardware import share_of_step, share_problem
from vqr1.errors import ConfigError, ModelError
from vqr1.policy.checkpoint_config import check_chosen, load_config, source_of
from vqr1.policy.families import FAMILIES, Family, family
from vqr1.policy.loading import PROCESSOR_FILE
from vqr1.policy.prompts import check_prompt, load_prompts, resize_rule
from vqr1.policy.tower_cost import TowerCost


@dataclass(frozen=True)
class ModelShape:
    """A policy's configuration and its weights, counted.

    Attributes:
        family: its family.
        config: its configuration.
        embedding: numbers in the token embedding.
        head: numbers in the output head; 0 where it shares the embedding's.
        text: numbers in the blocks of the text model.
        vision: numbers in the vision tower and what leads from it to the text model.
        connector: those of them that come after the tower.
        adapters: numbers in the adapters; 0 without.
    """

    family: Family
    config: Any
    embedding: int
    head: int
    text: int
    vision: int
    connector: int
    adapters: int

    @property
    def total(self) -> int:
        """All numbers but the adapters'."""
        return self.embedding + self.head + self.text + self.vision


@dataclass(frozen=True)
class Work:
    """What one process does in one step, at its longest.

    Attributes:
        images: B of this process: prompts, of one or several images each.
        group: K.
        tower: what the vision tower does for the images of one prompt.
        text_tokens: tokens of a prompt beside the images'.
        response: C, the length limit.
    """

    images: int
    group: int
    tower: TowerCost
    text_tokens: int
    response: int

    @property
    def prompt(self) -> int:
        """Tokens of one prompt."""
        return self.tower.tokens + self.text_tokens

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
        ModelError: neither a folder with a `config.json` nor a released model, or a model of
            another family than the chosen file of `conf/model` is for.
    """
    return shape_of(*_model_config(config), config.lora)


def shape_of(own: Family, found: Any, lora: LoraConfig | None = None) -> ModelShape:
    """The shape of a model of a configuration.

    Args:
        own: its family.
        found: its configuration.
        lora: its adapters; None without.
    """
    with torch.device("meta"):
        model = own.model_class()(found)
    parts = own.parts(model)
    tied = parts.head.weight is parts.embeddings.weight
    blocks = (*parts.text_layers.parameters(), *parts.text.norm.parameters())
    return ModelShape(
        own,
        found,
        embedding=parts.embeddings.weight.numel(),
        head=0 if tied else parts.head.weight.numel(),
        text=sum(p.numel() for p in blocks),
        vision=sum(p.numel() for p in parts.vision.parameters()),
        connector=sum(p.numel() for p in parts.connector.parameters()),
        adapters=0 if lora is None else _adapters(own, parts.text, lora),
    )


def _model_config(config: ModelConfig) -> tuple[Family, Any]:
    """The family and the configuration of a model."""
    source = source_of(config)
    known = {name: family(name, "a known model") for name in FAMILIES}
    for model_type, own in known.items():
        if source in own.released:
            check_chosen(config, model_type)
            return own, own.shape_config(own.released[source])
    if not (Path(source) / "config.json").is_file():
        names = [name for own in known.values() for name in own.released]
        raise ModelError(
            f"model.path={source}: the shape of this model is not known; give a folder with its "
            f"config.json, or one of {', '.join(names)}"
        )
    return load_config(config)


def _adapters(own: Family, text: nn.Module, lora: LoraConfig) -> int:
    chosen = re.compile(own.adapter_targets(lora.target_modules))
    layers = [
        layer
        for name, layer in text.named_modules(prefix=f"model.{own.text_module}")
        if isinstance(layer, nn.Linear) and chosen.fullmatch(name)
    ]
    return sum(lora.rank * (layer.in_features + layer.out_features) for layer in layers)


def _prompts(model: ModelConfig, prompt: PromptConfig, family: Family) -> tuple[ResizeRule, int]:
    """How images are resized, and tokens of a prompt beside theirs.

    Both are the checkpoint's own where its processor is at hand, else those of released ones.
    """
    if model.path is not None and not (Path(model.path) / PROCESSOR_FILE).is_file():
        check_prompt(family, prompt)
        return resize_rule(family, None, model.min_pixels, model.max_pixels), family.text_tokens
    builder = load_prompts(model, prompt)
    return builder.rule, builder.text_tokens


def rule_of(config: TrainConfig, shape: ModelShape) -> ResizeRule:
    """How the images that are ranked are resized, as `share_of_work` counts them.

    Args:
        config: the training's configuration.
        shape: its model.

    Raises:
        ConfigError: the model takes no such images or prompt.
    """
    return _prompts(config.model, config.prompt, shape.family)[0]


def _several(tower: TowerCost, images: int) -> TowerCost:
    """What the tower does for several images, all different, as each by itself."""
    return replace(
        tower,
        tokens=images * tower.tokens,
        pixels=images * tower.pixels,
        rows=images * tower.rows,
        flops=images * tower.flops,
    )


@dataclass(frozen=True)
class KindOfStep:
    """Steps of one task.

    Attributes:
        name: of the auxiliary task; empty: images are ranked.
        share: of the steps.
        work: of one process in such a step.
    """

    name: str
    share: float
    work: Work


def kinds_of_steps(
    config: TrainConfig, shape: ModelShape, size: tuple[int, int] | None = None
) -> list[KindOfStep]:
    """The steps that rank, where there are any, and those of each task; as `share_of_work`."""
    ranking = 1 - sum(task.share for task in config.tasks.values())
    found = [KindOfStep("", ranking, share_of_work(config, shape, size))]
    return (found if ranking > 1e-9 else []) + [
        KindOfStep(name, task.share, share_of_work(config, shape, size, task.prompt))
        for name, task in config.tasks.items()
    ]


def share_of_work(
    config: TrainConfig,
    shape: ModelShape,
    size: tuple[int, int] | None = None,
    prompt: PromptConfig | None = None,
) -> Work:
    """What one process does in a step.

    Args:
        config: the training's configuration.
        shape: its model.
        size: width and height of the images as they are on disk; None plans for the largest that
            `model.max_pixels` admits.
        prompt: of an auxiliary task; None: of the images that are ranked.

    Raises:
        ConfigError: the processes cannot share `loader.global_batch_size`, or the model takes no
            such images or prompt.
    """
    hardware, model = config.hardware, config.model
    images, wanted = config.loader.batch_size, config.loader.global_batch_size
    if wanted is not None:
        processes = hardware.devices * hardware.nodes
        share = share_of_step(wanted, processes)
        if share is None:
            raise ConfigError([share_problem(wanted, processes)])
        images = share
    asked = config.prompt if prompt is None else prompt
    rule, text = _prompts(model, asked, shape.family)
    return Work(
        images,
        config.grpo.group_size,
        _several(shape.family.tower_cost(shape.config, rule, size), asked.images),
        text,
        config.rollout.sampling.max_new_tokens,
    )


def share_of_votes(
    config: TrainConfig, shape: ModelShape, training_images: int, size: tuple[int, int] | None
) -> Work:
    """What one process does before the first step of `target=self_vote`.

    Args:
        config: the training's configuration.
        shape: its model.
        training_images: images that are voted on.
        size: as of `share_of_work`.

    Raises:
        ConfigError: the model does not take the prompt.
    """
    votes, processes = config.votes, config.hardware.devices * config.hardware.nodes
    by_scores = votes.by == "scores"
    prompt = config.prompt if by_scores else votes.comparison_prompt(config.prompt)
    rule, text = _prompts(config.model, prompt, shape.family)
    one = shape.family.tower_cost(shape.config, rule, size)
    tower = _several(one, prompt.images)
    pairs = min(votes.pairs_per_image, training_images - 1) * training_images / 2
    if not by_scores:
        # The two orders of a pair share the features of its images.
        tower = replace(tower, flops=one.flops)
    return Work(
        math.ceil((training_images if by_scores else 2 * pairs) / processes),
        votes.count if by_scores else votes.count // 2,
        tower,
        text,
        config.rollout.sampling.max_new_tokens,
    )
