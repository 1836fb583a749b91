"""Fields of an answer in tokens, and credit by field; by hand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import pytest
import torch

from tests.support.tiny_tokenizer import tiny_tokenizer
from vqr1.iqa.answers import PUBLISHED
from vqr1.records import Rollout
from vqr1.rollout.rollout_builder import rollout_of
from vqr1.training.token_fields import credit_tokens, field_masks, token_span


@pytest.mark.parametrize(
    ("span", "tokens"),
    [
        ((0, 2), (0, 1)),  # "ab" is the first token
        ((2, 3), (1, 2)),  # "c"
        ((1, 3), (0, 2)),  # "bc": half of the first token, and the second
        ((3, 6), (2, 4)),  # "def": "d" and "efg", the last one in part
        ((0, 7), (0, 4)),
        ((6, 7), (3, 4)),
        ((3, 3), (0, 0)),  # nothing
        ((7, 9), (4, 4)),  # after the last token: none
    ],
)
def test_tokens_of_characters(span: tuple[int, int], tokens: tuple[int, int]) -> None:
    lengths = [0, *accumulate(map(len, ("ab", "c", "d", "efg")))]
    assert token_span(lengths.__getitem__, 4, span) == tokens


def sampled(texts: Sequence[str]) -> Rollout:
    """One image with a response of each text."""
    tokenizer = tiny_tokenizer()
    rows = [[*tokenizer.encode(text), tokenizer.eos_token_id] for text in texts]
    tokens = torch.zeros(1, len(rows), max(map(len, rows)), dtype=torch.int64)
    for k, row in enumerate(rows):
        tokens[0, k, : len(row)] = torch.tensor(row)
    lengths = torch.tensor([[len(row) for row in rows]])
    finished = torch.ones(1, len(rows), dtype=torch.bool)
    return rollout_of(tokens, lengths, torch.zeros(tokens.shape), finished, tokenizer)


def test_tokens_of_fields() -> None:
    rollout = sampled(["<think>an a</think><answer>3.5</answer>", "no", "<answer>4</answer>"])
    assert rollout.texts[0][0] == "<think>an a</think><answer>3.5</answer>"
    masks = field_masks(rollout, PUBLISHED, ("reasoning", "score"), tiny_tokenizer())

    def spelt(name: str, k: int) -> str:
        text: str = tiny_tokenizer().decode(rollout.tokens[0, k][masks[name][0, k]].tolist())
        return text

    assert [spelt("score", k) for k in range(3)] == ["3.5", "", "4"]
    # The tokenizer merges "an"; the field of the reasoning ends before "</".
    assert [spelt("reasoning", k) for k in range(3)] == ["an a", "", ""]
    assert not (masks["score"] & ~rollout.mask).any()


def test_a_token_that_ends_a_tag_and_begins_a_field_belongs_to_the_field() -> None:
    # "er>" is one token: of "<answer>" it holds the end, and no character of the score.
    tokenizer = tiny_tokenizer()
    rollout = sampled(["<answer>er</answer>"])
    mask = field_masks(rollout, PUBLISHED, ("score",), tokenizer)["score"]
    assert tokenizer.convert_ids_to_tokens(rollout.tokens[0, 0][mask[0, 0]].tolist()) == ["er"]


def test_credit_by_field() -> None:
    # Two responses of four tokens; reasoning is tokens 0 and 1, the score tokens 1 and 2.
    masks = {
        "reasoning": torch.tensor([[[1, 1, 0, 0], [0, 0, 0, 0]]], dtype=torch.bool),
        "score": torch.tensor([[[0, 1, 1, 0], [1, 0, 0, 0]]], dtype=torch.bool),
    }
    advantages = torch.tensor([[[2.0, -1.0], [5.0, 3.0]]])
    # Token 1 spells both: 2 - 1. The second response has no reasoning, so its 5 goes nowhere.
    assert credit_tokens(advantages, masks).tolist() == [[[2, 1, -1, 0], [3, 0, 0, 0]]]
