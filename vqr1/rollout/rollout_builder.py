"""Sampled tokens as a `Rollout`, whatever sampled them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vqr1.records import Rollout
from vqr1.rollout.stopping import StopRule


def rollout_of(
    tokens: Tensor, lengths: Tensor, logprobs: Tensor, finished: Tensor, tokenizer: Any
) -> Rollout:
    """A rollout with its mask and its texts.

    Args:
        tokens: [B, K, C] int64, padded after each response's end.
        lengths: [B, K] int64.
        logprobs: [B, K, C] float32, 0 after each response's end.
        finished: [B, K] bool.
        tokenizer: decodes the texts.
    """
    mask = (
        torch.arange(tokens.shape[2], device=tokens.device) < lengths.to(tokens.device)[..., None]
    )
    texts = [
        tokenizer.batch_decode(
            [row[:count] for row, count in zip(group, sizes, strict=True)],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        for group, sizes in zip(tokens.tolist(), lengths.tolist(), strict=True)
    ]
    return Rollout(tokens, mask, texts, finished.to(tokens.device), logprobs)


def response_end(
    tokens: Sequence[int], tokenizer: Any, ends: frozenset[int], end_text: str | None
) -> tuple[int, bool]:
    """Where a response of an engine with stop rules of its own ends by ours.

    Args:
        tokens: of the response.
        tokenizer: spells them.
        ends: tokens that end a turn.
        end_text: a text that ends a response too, such as `</answer>`.

    Returns:
        Number of its tokens, and whether a stop rule ended it.
    """
    rule = StopRule(tokenizer, ends, 1, end_text)
    for count, token in enumerate(tokens, start=1):
        if rule.ended([0], [token])[0]:
            return count, True
    return len(tokens), False


def padded(
    rows: Sequence[Sequence[Sequence[int]]],
    logprobs: Sequence[Sequence[Sequence[float]]],
    padding: int,
) -> tuple[Tensor, Tensor]:
    """[B, K, C] int64 tokens and float32 log-probabilities of B x K rows of any lengths."""
    longest = max(1, max(len(row) for group in rows for row in group))
    shape = (len(rows), len(rows[0]), longest)
    tokens = torch.full(shape, padding, dtype=torch.long)
    values = torch.zeros(shape)
    for b, (group, reported) in enumerate(zip(rows, logprobs, strict=True)):
        for k, (row, numbers) in enumerate(zip(group, reported, strict=True)):
            tokens[b, k, : len(row)] = torch.tensor(row, dtype=torch.long)
            values[b, k, : len(row)] = torch.tensor(numbers)
    return tokens, values
