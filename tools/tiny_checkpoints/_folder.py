"""A checkpoint folder in the layout of released ones, with random weights.

Not here: what a family's model, processor and tokenizer are (a module each).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

WEIGHT_STD = 0.15
"""Of random weights: wide enough that a tiny model's outputs are far from uniform."""


@dataclass(frozen=True)
class Checkpoint:
    """What a family's module declares.

    Attributes:
        model: of the family's class, with weights of any value.
        processor: the family's, with its tokenizer and chat template.
        generation: contents of `generation_config.json`.
        std: standard deviation of weights by the beginning of their names, where it is not
            `WEIGHT_STD`; the first that fits counts.
    """

    model: Any
    processor: Any
    generation: Mapping[str, Any]
    std: Mapping[str, float] = field(default_factory=dict)


def write_folder(made: Checkpoint, folder: Path, seed: int) -> None:
    """Draws the weights, float32, and writes all files of a released checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_weights(made.model, seed, made.std)
    made.model.save_pretrained(folder)
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


def draw_weights(model: nn.Module, seed: int, std: Mapping[str, float]) -> None:
    """Weights from a seed, in place: norms about 1, everything else about 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.float().named_parameters():
            wide = next((value for start, value in std.items() if name.startswith(start)), None)
            noise = torch.randn(weight.shape, generator=generator)
            noise *= WEIGHT_STD if wide is None else wide
            weight.copy_(1 + noise if _is_norm(name) else noise)


def _is_norm(name: str) -> bool:
    """Whether a weight is a norm's factor."""
    *modules, last = name.split(".")
    return last == "weight" and any(word in modules[-1] for word in ("norm", "ln_", "bn"))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
