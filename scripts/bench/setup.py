"""What is measured: problem sizes, models with random weights, images and prompts.

Both contestants load the weights from one folder and see the same images and prompts.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoProcessor

from tools.tiny_policy.factory import MAX_PIXELS, MIN_PIXELS, build_processor, build_tokenizer
from vqr1.config import read_choice
from vqr1.policy.families import Family, family
from vqr1.policy.prompts import PromptBuilder

QUESTION = (
    "You are doing the image quality assessment task. Here is the question: What is your overall "
    "rating on the quality of this picture?"
)
KL_WEIGHT, LEARNING_RATE = 0.04, 1e-6


@dataclass(frozen=True)
class Size:
    """One problem: B images of width x height, K responses of exactly C tokens."""

    name: str
    width: int
    height: int
    images: int
    group: int
    tokens: int


@dataclass(frozen=True)
class Place:
    """Where passes run.

    Attributes:
        device: a CPU or a CUDA device, on which weights are bfloat16.
        mixed: passes in bfloat16 over float32 weights, on a CPU.
    """

    device: torch.device
    mixed: bool = False

    @property
    def cuda(self) -> bool:
        """Whether it is a GPU."""
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return torch.bfloat16 if self.cuda else torch.float32

    @property
    def passes(self) -> torch.dtype:
        """Of matrix products."""
        return torch.bfloat16 if self.mixed else self.dtype


SIZES = {
    size.name: size
    for size in (
        Size("448x336", 448, 336, images=4, group=6, tokens=64),
        Size("512x384", 512, 384, images=4, group=6, tokens=128),
        Size("1024x768", 1024, 768, images=1, group=8, tokens=64),
    )
}
CHECKPOINT_SIZE = Size("512x512", 512, 512, images=8, group=6, tokens=40)
"""The problem that a checkpoint folder is given: photographs of BIQ2021's size, short reasoning."""


@dataclass(frozen=True)
class Subject:
    """A family whose training step is timed.

    Attributes:
        model_type: the family's.
        limits: `model.min_pixels` and `model.max_pixels`.
        image_options: settings of the tiny checkpoint's image processor.
        options: settings of its processor.
        question: the prompt's text.
    """

    model_type: str
    limits: tuple[int, int] = (MIN_PIXELS, MAX_PIXELS)
    image_options: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    question: str = QUESTION

    @property
    def family(self) -> Family:
        """What the package knows of it."""
        return family(self.model_type, "the benchmark's model")

    def processor(self) -> Any:
        """A real processor of the family over a small tokenizer."""
        if self.model_type == "qwen2_5_vl":
            # Knows the question's words.
            texts = [QUESTION, "system user assistant You are a helpful assistant."]
            return build_processor(build_tokenizer(texts, 512))
        module = importlib.import_module(f"tools.tiny_checkpoints.{self.model_type}")
        processor = module.checkpoint().processor
        images = processor.image_processor
        processor.image_processor = images.from_dict(images.to_dict() | dict(self.image_options))
        for name, value in self.options.items():
            setattr(processor, name, value)
        return processor

    def config(self, shape: str, reader: Any) -> Any:
        """The configuration of a model of a shape that knows all tokens of a processor."""
        config = self.family.shape_config(shape, reader.tokenizer.convert_tokens_to_ids)
        text = config.get_text_config()
        text.vocab_size = max(text.vocab_size, len(reader.tokenizer))
        return config

    def builder(self, reader: Any) -> PromptBuilder:
        """Makes our side's prompts."""
        return PromptBuilder(self.family, reader, self.question, *self.limits, vision_id=False)

    def weights(self, shape: str, place: Place, folder: Path) -> Path:
        """Folder of the weights that all contestants start from: `folder`, which is written."""
        self.model(shape, place.dtype, place.device).save_pretrained(folder)
        return folder

    def model(self, shape: str, dtype: torch.dtype, device: torch.device) -> Any:
        """A model of the given shape with random weights."""
        config = self.config(shape, self.processor())
        torch.manual_seed(0)
        with torch.device(device):
            return self.family.model_class()._from_config(config, dtype=dtype)


@dataclass(frozen=True)
class Checkpoint(Subject):
    """A checkpoint folder whose step is timed, with its processor and weights; it is to reason.

    Attributes:
        folder: as `model.path` takes it.
    """

    folder: Path = Path()

    @classmethod
    def of(cls, folder: Path) -> Checkpoint:
        """The checkpoint in a folder."""
        model_type = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
        question = read_choice("prompt", "thinking", "prompt")["text"]
        return cls(model_type, (1, 2**20), question=question, folder=folder)

    def processor(self) -> Any:
        """The folder's own."""
        return AutoProcessor.from_pretrained(self.folder, local_files_only=True)

    def weights(self, shape: str, place: Place, folder: Path) -> Path:
        """The folder's own."""
        return self.folder

    def config(self, shape: str, reader: Any) -> Any:
        """The folder's own."""
        return AutoConfig.from_pretrained(self.folder, local_files_only=True)


FAST_VLM_SIDE, LLAVA_SIDE, TILE = 384, 336, 512
"""Sides of the squares that FastVLM, LLaVA and SmolVLM see: LLaVA's as released. The other released
ones make 1024 x 1024 pixels of any image, or 13 such tiles: more than TRL's step has room for on a
machine of 24 GiB."""

INTERNVL_TILE = 448
"""Of the one tile that InternVL makes of an image here: TRL counts one for each row of a batch."""

_ONE_TILE: Mapping[str, Any] = {
    "limits": (TILE**2, TILE**2),
    "image_options": {"size": {"longest_edge": TILE}, "max_image_size": {"longest_edge": TILE}},
    "options": {"image_seq_len": 64},
}


def _square(model_type: str, side: int, options: Mapping[str, Any]) -> Subject:
    """A family whose images are the squares in the middle."""
    sizes = {
        "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
    }
    return Subject(model_type, (side**2, side**2), sizes, options)


SUBJECTS = {
    subject.model_type: subject
    for subject in (
        Subject("qwen2_5_vl"),
        Subject("qwen3_vl", (256 * 256, MAX_PIXELS)),
        Subject("qwen2_vl", (56 * 56, MAX_PIXELS)),
        Subject("qwen3_5", (256 * 256, MAX_PIXELS)),
        Subject(
            "internvl",
            (INTERNVL_TILE**2, INTERNVL_TILE**2),
            {"size": {"height": INTERNVL_TILE, "width": INTERNVL_TILE}, "max_patches": 1},
            {"image_seq_length": (INTERNVL_TILE // 28) ** 2},
        ),
        _square("fast_vlm", FAST_VLM_SIDE, {"patch_size": 64}),
        _square("llava", LLAVA_SIDE, {}),
        Subject("smolvlm", **_ONE_TILE),
        Subject("idefics3", **_ONE_TILE),
    )
}
"""By `model_type`."""


def loaded_images(size: Size) -> list[Image.Image]:
    """B different images: smooth colour fields with a little noise."""
    generator = np.random.default_rng(0)
    result = []
    for _ in range(size.images):
        coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((size.width, size.height), Image.Resampling.BICUBIC))
        noise = generator.integers(-8, 9, smooth.shape)
        result.append(Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8)))
    return result


class EndlessTokenizer:
    """The tokenizer without tokens that end a turn: every response fills its length limit."""

    pad_token_id = 0
    eos_token_id = -1

    def __init__(self, tokenizer: Any, ends: Sequence[str]) -> None:
        self._tokenizer, self._ends = tokenizer, {*ends, tokenizer.eos_token}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, *texts: Any, **options: Any) -> Any:
        """As the tokenizer itself."""
        return self._tokenizer(*texts, **options)

    def get_vocab(self) -> dict[str, int]:
        """The vocabulary without the ends of a turn, which are then never drawn."""
        vocab: dict[str, int] = self._tokenizer.get_vocab()
        return {word: number for word, number in vocab.items() if word not in self._ends}
