"""Which tokens of a response spell which field of its answer, and credit by field.

An answer form reports where each field stands in a response's text (`AnswerForm.spans`). A token
belongs to a field if it spells at least one of the field's characters; one that spells the end of
one field and the beginning of the next belongs to both.

    A[b, k, t] = sum over the fields f that token t belongs to of A[b, k, f]

Not here: where the fields stand (`vqr1.iqa.answers`), the advantages (`advantages/`).

Shape legend, beside that of `vqr1.records`: F fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from vqr1.iqa.answers import AnswerForm, Span
from vqr1.records import Rollout

RESPONSE = "response"
"""Field of every form: all tokens of a response."""


def token_span(length_of: Callable[[int], int], count: int, span: Span) -> Span:
    """The tokens that spell some characters of a response: the first, and the one after the last.

    Args:
        length_of: characters that the first so many tokens spell, which never falls.
        count: tokens of the response.
        span: the characters: the first, and the one after the last.
    """
    start, end = span
    if end <= start:
        return 0, 0

    def first_beyond(characters: int) -> int:
        """Fewest tokens that spell more characters than these; count + 1 where all are too few."""
        low, high = 0, count + 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if length_of(middle) > characters else (middle + 1, high)
        return low

    # The token after which more than `start` characters are there spells the first of the field.
    return max(first_beyond(start) - 1, 0), min(first_beyond(end - 1), count)


def field_masks(
    rollout: Rollout, form: AnswerForm, fields: Sequence[str], tokenizer: Any
) -> dict[str, Tensor]:
    """The tokens of each field: [B, K, C] bool by field.

    Args:
        rollout: K responses to each of B images.
        form: reports where the fields stand.
        fields: names of those that are wanted; one that a response lacks has no tokens there.
        tokenizer: what the responses' tokens belong to.
    """
    masks = {name: torch.zeros_like(rollout.mask) for name in fields}
    if RESPONSE in masks:
        masks[RESPONSE] |= rollout.mask
    if masks.keys() <= {RESPONSE}:
        return masks
    for b, texts in enumerate(rollout.texts):
        for k, text in enumerate(texts):
            spans = form.spans(text)
            wanted = {name: spans[name] for name in fields if name in spans}
            if not wanted:
                continue
            tokens = rollout.tokens[b, k][rollout.mask[b, k]].tolist()
            length_of = lru_cache(maxsize=None)(partial(_length, tokenizer, tokens))
            for name, span in wanted.items():
                first, end = token_span(length_of, len(tokens), span)
                masks[name][b, k, first:end] = True
    return masks


def _length(tokenizer: Any, tokens: Sequence[int], count: int) -> int:
    """Characters that the first `count` tokens spell, as `Rollout.texts` spells them."""
    text = tokenizer.decode(
        tokens[:count], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return len(text)


def credit_tokens(advantages: Tensor, masks: Mapping[str, Tensor]) -> Tensor:
    """Give each field's advantage to its own tokens, and none to tokens of no field.

    Args:
        advantages: [B, K, F] of each field.
        masks: [B, K, C] bool tokens of each of the F fields, in their order.

    Returns:
        [B, K, C] advantage of each token.
    """
    members = torch.stack(list(masks.values()), dim=2).to(advantages.dtype)
    return torch.einsum("bkf,bkfc->bkc", advantages, members)
