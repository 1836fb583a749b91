"""A byte-level tokenizer of 96 tokens that fits the random tiny models."""

from __future__ import annotations

import string

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.support.tiny_models import VOCABULARY

_CONTROL = (
    "<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>",
    "<|endoftext|>", "<|im_end|>",
)  # fmt: skip


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Characters and a few merges as tokens 0 to 89, control tokens as 90 to 95."""
    pieces = [*string.ascii_letters, *string.digits, *"<>/.,:;!?-_()'+*=", "Ġ", "Ċ"]
    merges = [("<", "/"), ("a", "n"), ("s", "w"), ("e", "r"), ("er", ">"), ("</", "an")]
    pieces += ["".join(pair) for pair in merges]
    pieces += [chr(0xC0 + i) for i in range(90 - len(pieces))]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    assert len(vocab) == 90
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in _CONTROL])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    assert len(fast) == VOCABULARY
    return fast
