"""Joins tower and language model by a random projector, as a FastVLM, and writes its folder.

The projector's two layers begin at random, but at the scale of what they stand between: the first
takes each channel of the tower less its mean and over its standard deviation, on crops of the demo
set's photographs for training (scikit-image carries them; no MOS), the second gives rows of the
standard deviation of the language model's embeddings.

    linear_1(x) = W ((x - mean) / std) + b,   W random    linear_2 random, rows of std s

The image token is a new row of the embedding, the mean of all others: its logit is then the mean of
all logits, so that it is never among the likeliest.

Not here: reading the halves (`halves.py`).
"""

from __future__ import annotations

import copy
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import CLIPImageProcessor, FastVlmConfig, LlavaProcessor, PreTrainedTokenizerFast

from tools.small_vlm.halves import LanguageHalf, TowerHalf, load_tower
from tools.tiny_checkpoints._folder import Checkpoint, save_folder
from vqr1.data.demo import PHOTOGRAPHS, load_photograph, stream
from vqr1.policy.families.fast_vlm import FAMILY

IMAGE = "<image>"
"""The image token."""

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for item in message['content'] if item['type'] == 'image' %}{{ '<image>' }}{% endfor %}"
    "{% for item in message['content'] if item['type'] == 'text' %}"
    "{{ '\\n' + item['text'] }}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The language model's own, with images, which come before a message's text, and without the system
message that it writes where a chat has none: twenty tokens of every prompt."""

CROPS = 8
"""Crops of each photograph, by which the projector is scaled."""

RECORD = "assembled.json"
"""File of the folder that states what it was made of."""


@dataclass(frozen=True)
class Settings:
    """How the halves are joined.

    Attributes:
        side: edge of every image in pixels, a multiple of `grid` times the tower's stride.
        grid: image tokens along each side.
        stages: of the tower, as `vqr1.policy.towers` numbers them.
        deviations: whether the standard deviation in each cell follows its mean.
        seed: of the projector.
    """

    side: int = 288
    grid: int = 3
    stages: tuple[int, ...] = (1, 2, 4, 6)
    deviations: bool = True
    seed: int = 1


def assemble(tower: TowerHalf, language: LanguageHalf, settings: Settings, folder: Path) -> None:
    """Writes a checkpoint folder that `model.path` takes.

    Args:
        tower: weights of the vision tower.
        language: the language model.
        settings: how they are joined.
        folder: made where absent; what it holds is replaced.
    """
    tokenizer = with_image_token(language.tokenizer)
    text = language.model
    architecture = f"{tower.architecture}_stages"
    arguments = {
        "grid": settings.grid, "stages": list(settings.stages), "deviations": settings.deviations,
    }  # fmt: skip
    model_class = FAMILY.model_class()
    staged = _staged(architecture, arguments)
    load_tower(staged, tower)
    config = FastVlmConfig(
        text_config=text_config(text, len(tokenizer)),
        vision_config={
            "model_type": "timm_wrapper",
            "architecture": architecture,
            "model_args": arguments,
            "hidden_size": staged.num_features,
            "do_pooling": False,
        },
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=settings.grid**2,
        tie_word_embeddings=bool(text.config.tie_word_embeddings),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = model_class(config).float().eval()
        _copy_halves(model, staged, text)
        scale_projector(
            model.model.multi_modal_projector,
            *statistics(staged, settings),
            float(text.get_input_embeddings().weight.detach().std()),
        )
    processor = LlavaProcessor(
        image_processor(settings.side),
        tokenizer,
        patch_size=settings.side // settings.grid,
        chat_template=TEMPLATE,
    )
    number = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")
    }
    save_folder(Checkpoint(model, processor, number), folder)
    record = {
        "tower": dict(tower.origin),
        "language_model": dict(language.origin),
        "architecture": architecture,
        **arguments,
        "image_side": settings.side,
        "projector_seed": settings.seed,
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def with_image_token(tokenizer: Any) -> PreTrainedTokenizerFast:
    """A copy of a fast tokenizer that has the image token after all others."""
    core = copy.deepcopy(tokenizer.backend_tokenizer)
    core.add_special_tokens([AddedToken(IMAGE, special=True, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token or tokenizer.eos_token,
        unk_token=tokenizer.unk_token,
        additional_special_tokens=[IMAGE],
        clean_up_tokenization_spaces=False,
        model_max_length=8192,
    )


def text_config(text: Any, vocabulary: int) -> dict[str, Any]:
    """A language model's configuration without what belongs to the file that it came from."""
    values = text.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "architectures", "transformers_version"):
        values.pop(name, None)
    return {**values, "vocab_size": vocabulary}


def image_processor(side: int) -> CLIPImageProcessor:
    """Every image to one size, whatever its shape, and to [-1, 1]."""
    return CLIPImageProcessor(
        size={"height": side, "width": side},
        do_center_crop=False,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


def _staged(architecture: str, arguments: dict[str, Any]) -> Any:
    import timm

    return timm.create_model(architecture, pretrained=False, num_classes=0, **arguments).eval()


def _copy_halves(model: Any, staged: nn.Module, text: Any) -> None:
    """The halves' weights into a joined model, in place."""
    model.model.vision_tower.timm_model.load_state_dict(staged.state_dict())
    weights = dict(text.model.state_dict())
    weights["embed_tokens.weight"] = with_mean_row(weights["embed_tokens.weight"])
    model.model.language_model.load_state_dict(weights)
    if not text.config.tie_word_embeddings:
        model.lm_head.load_state_dict({"weight": with_mean_row(text.lm_head.weight.detach())})
    model.tie_weights()


def with_mean_row(weight: Tensor) -> Tensor:
    """[V, H] -> [V + 1, H], the last row the mean of the others."""
    return torch.cat([weight, weight.mean(dim=0, keepdim=True)])


@torch.inference_mode()
def statistics(tower: Any, settings: Settings) -> tuple[Tensor, Tensor]:
    """[C] means and [C] standard deviations of a tower's channels over cells of photographs."""
    rng = stream("small vlm", settings.seed)
    rows = []
    for photograph in PHOTOGRAPHS:
        if photograph.split != "train":
            continue
        pixels = load_photograph(photograph, settings.side)
        for _ in range(CROPS):
            top, left = (int(rng.integers(edge - settings.side + 1)) for edge in pixels.shape[:2])
            crop = pixels[top : top + settings.side, left : left + settings.side]
            image = torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1)[None]
            rows.append(tower.forward_features(2 * image - 1)[0].flatten(1).T)
    found = torch.cat(rows)
    return found.mean(dim=0).clone(), found.std(dim=0).clone()


@torch.no_grad()
def scale_projector(projector: Any, mean: Tensor, std: Tensor, target: float) -> None:
    """Draws a projector's weights at the scale of its input and output; see the module's header.

    Args:
        projector: with layers `linear_1` and `linear_2`, changed in place.
        mean: [C] of its input.
        std: [C] of its input; channels that hardly differ count as a tenth of the median.
        target: standard deviation of its output.
    """
    first, second = projector.linear_1, projector.linear_2
    std = std.clamp_min(0.1 * float(std.median()) + 1e-6)
    first.weight.normal_(0.0, 1.0 / math.sqrt(first.in_features)).div_(std)
    first.bias.copy_(-first.weight @ mean)
    # GELU of a standard normal variable has a mean square of .425.
    second.weight.normal_(0.0, target / math.sqrt(0.425 * second.in_features))
    second.bias.zero_()
