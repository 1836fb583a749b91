"""A checkpoint folder in the layout of released ones, with random or given weights.

Not here: what a family's model, processor and tokenizer are (a module each).
"""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

WEIGHT_STD = 0.15
"""Of random weights: wide enough that a tiny model's outputs are far from uniform."""

VLLM_HEAD = 32
"""Least size of attention heads that vLLM computes on a CPU."""


@dataclass(frozen=True)
class Checkpoint:
    """What a family's module declares.

    Attributes:
        model: of the family's class, with weights of any value.
        processor: the family's, with its tokenizer and chat template.
        generation: contents of `generation_config.json`.
        std: standard deviation of weights by the beginning of their names, where it is not
            `WEIGHT_STD`; the first that fits counts.
        released: beginnings of weights' names that are others in released checkpoints.
        means: means of weights by the end of their names, where they are not 1 of a norm and 0 of
            all else; the first that fits counts.
    """

    model: Any
    processor: Any
    generation: Mapping[str, Any]
    std: Mapping[str, float] = field(default_factory=dict)
    released: Mapping[str, str] = field(default_factory=dict)
    means: Mapping[str, float] = field(default_factory=dict)


def in_vllm(made: Checkpoint) -> Checkpoint:
    """The same as vLLM computes it on a CPU: wider heads in the text model, one tower layer."""
    config, size = copy.deepcopy(made.model.config), VLLM_HEAD
    text = config.text_config
    text.hidden_size = size * text.num_attention_heads
    if getattr(text, "head_dim", None) is not None:
        text.head_dim = size
    sections = text.rope_parameters.get("mrope_section")
    if sections is not None:
        pairs = int(size * text.rope_parameters.get("partial_rotary_factor", 1)) // 2
        rows, columns = (section * pairs // sum(sections) for section in sections[1:])
        text.rope_parameters["mrope_section"] = [pairs - rows - columns, rows, columns]
    vision = config.vision_config
    if hasattr(vision, "embed_dim"):
        vision.hidden_size = text.hidden_size
    elif hasattr(vision, "out_hidden_size"):
        vision.out_hidden_size = text.hidden_size
    if isinstance(getattr(config, "vision_feature_layer", None), list):
        config.vision_feature_layer = config.vision_feature_layer[-1]
    # Wider rows of the same weights would make attention much sharper.
    narrower = math.sqrt(made.model.config.text_config.hidden_size / text.hidden_size)
    std = {start: narrower * value for start, value in (*made.std.items(), ("", WEIGHT_STD))}
    return replace(made, model=type(made.model)(config), std=std)


def write_folder(made: Checkpoint, folder: Path, seed: int) -> None:
    """Draws the weights, float32, and writes all files of a released checkpoint."""
    draw_weights(made.model, seed, made.std, made.means)
    save_folder(made, folder)


def save_folder(made: Checkpoint, folder: Path) -> None:
    """Writes all files of a released checkpoint, the weights as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    made.model.save_pretrained(folder)
    if made.released:
        _rename(folder / "model.safetensors", made.released)
    # The library wrote one of a model that never generates.
    _write_json(folder / "generation_config.json", dict(made.generation))
    processor = made.processor
    for part in ("tokenizer", "image_processor", "video_processor"):
        if getattr(processor, part, None) is not None:
            getattr(processor, part).save_pretrained(folder)
    # Where the processor has fields of its own, the library's file holds them beside the parts'.
    own = folder / "own"
    processor.save_pretrained(own)
    values = json.loads((own / "processor_config.json").read_text(encoding="utf-8"))
    shutil.rmtree(own)
    for part in ("image_processor", "video_processor", "tokenizer"):
        values.pop(part, None)
    _write_json(folder / "processor_config.json", values)
    (folder / "chat_template.jinja").write_text(processor.chat_template, encoding="utf-8")
    _write_json(folder / "chat_template.json", {"chat_template": processor.chat_template})


def _rename(file: Path, beginnings: Mapping[str, str]) -> None:
    """Gives weights in a file other names."""
    renamed = {}
    for name, weight in load_file(file).items():
        start = next((start for start in beginnings if name.startswith(start)), "")
        renamed[beginnings.get(start, "") + name.removeprefix(start)] = weight
    save_file(renamed, file, metadata={"format": "pt"})


def draw_weights(
    model: nn.Module, seed: int, std: Mapping[str, float], means: Mapping[str, float]
) -> None:
    """Weights from a seed, in place; see `Checkpoint`."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.float().named_parameters():
            wide = next((value for start, value in std.items() if name.startswith(start)), None)
            mean = next((value for end, value in means.items() if name.endswith(end)), None)
            noise = torch.randn(weight.shape, generator=generator)
            noise *= WEIGHT_STD if wide is None else wide
            weight.copy_(noise + (float(_is_norm(name)) if mean is None else mean))


def _is_norm(name: str) -> bool:
    """Whether a weight is a norm's factor."""
    *modules, last = name.split(".")
    return last == "weight" and any(word in modules[-1] for word in ("norm", "ln_", "bn"))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
