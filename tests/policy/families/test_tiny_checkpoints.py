"""Tiny checkpoints: what they are made of, and that a seed names their weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.policy.families.cases import CASES
from tests.support.number_tokenizers import qwen_tokenizer as whole_tokenizer
from tools.tiny_checkpoints import MODEL_TYPES, build
from tools.tiny_checkpoints._qwen_tokenizer import BYTES, MERGES, QWEN2_SPECIAL, qwen_tokenizer
from vqr1.policy.families import FAMILIES

TEXT = "How good is this photo, 3.42 or 4? <answer>3.42</answer> Naïve 画质 \U0001f600"


def test_every_family_has_a_tiny_checkpoint_and_a_case() -> None:
    assert set(FAMILIES) <= set(MODEL_TYPES)
    assert {case.model_type for case in CASES} == set(FAMILIES)
    with pytest.raises(KeyError, match=r"bert: none of .*qwen3_vl"):
        build("bert", Path("nowhere"))


def test_a_seed_names_the_weights(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    file = "model.safetensors"
    first = load_file(checkpoint("qwen2_5_vl") / file)
    again = load_file(build("qwen2_5_vl", tmp_path / "again", seed=1) / file)
    other = load_file(build("qwen2_5_vl", tmp_path / "other", seed=2) / file)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    assert (tmp_path / "again" / file).stat().st_size < 1e6


def test_the_tokenizer_writes_qwens_pieces() -> None:
    """Whatever it writes, joined by further merges of the whole vocabulary, is Qwen's writing."""
    small, whole = qwen_tokenizer(), whole_tokenizer()
    assert small.decode(small.encode(TEXT)) == TEXT
    # The first pieces of both vocabularies are the same, number by number.
    numbers = whole.get_vocab()
    cut = {piece: n for piece, n in small.get_vocab().items() if n < BYTES + MERGES}
    assert len(cut) == BYTES + MERGES
    assert all(numbers[piece] == n for piece, n in cut.items())
    # Digits stand alone, and special tokens follow the merges in Qwen's order.
    assert small.tokenize("3.42") == whole.tokenize("3.42") == ["3", ".", "4", "2"]
    first = BYTES + MERGES
    assert small.convert_tokens_to_ids(list(QWEN2_SPECIAL)) == [
        *range(first, first + len(QWEN2_SPECIAL))
    ]
    assert (small.eos_token, small.pad_token) == ("<|im_end|>", "<|endoftext|>")
