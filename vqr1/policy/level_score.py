"""Scores from the words that stand for levels: one pass over prompt and answer stem.

After the prompt and the text before the word (`AnswerForm.opening`) the logits of the words' first
tokens are compared with each other alone, as Q-Align (arXiv 2312.17090) and DeQA-Score (2501.11561)
do:

    p = softmax(z of the words)    score = sum of p x    std^2 = sum of p (x - score)^2

with x what each word stands for. `lost`, the probability of all other tokens there, is reported and
does not enter the score.

Not here: words of several tokens by their whole probability (`expected_score.py`), training on such
scores (`vqr1.training.stages.soft_levels`).

Shape legend: B prompts, N words, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from vqr1.errors import ModelError
from vqr1.iqa.answers import AnswerForm
from vqr1.policy.output_head import MAX_LOGITS, scaled_logits
from vqr1.records import PromptBatch


@dataclass(frozen=True)
class LevelTokens:
    """Where a tokenizer has the words of a form.

    Attributes:
        stem: tokens of the text before the word.
        words: [N] first token of each word, in the order of `AnswerForm.levels`.
        values: [N] what each word stands for.
    """

    stem: tuple[int, ...]
    words: tuple[int, ...]
    values: tuple[float, ...]

    def after(self, prompts: PromptBatch) -> PromptBatch:
        """The prompts with the stem at their end."""
        stem = torch.tensor(self.stem, dtype=torch.long)
        ids = tuple(torch.cat([one, stem.to(one.device)]) for one in prompts.input_ids)
        return replace(prompts, input_ids=ids)


@dataclass(frozen=True)
class LevelScores:
    """Scores of B images.

    Attributes:
        score: [B] float64 expectation over the words.
        std: [B] float64 its standard deviation.
        lost: [B] float64 probability, in [0, 1], of tokens that begin none of the words.
    """

    score: Tensor
    std: Tensor
    lost: Tensor


def level_tokens(tokenizer: Any, form: AnswerForm) -> LevelTokens:
    """The tokens of a form's words.

    Args:
        tokenizer: a Hugging Face tokenizer.
        form: one with `levels`, without reasoning.

    Raises:
        ModelError: two words share their first token.
    """
    between = " " if form.spaced and form.opening else ""
    words = tuple(form.levels.items())
    return _level_tokens(tokenizer, form.beginning or "", between, words)


@lru_cache(maxsize=16)
def _level_tokens(
    tokenizer: Any, opening: str, between: str, words: tuple[tuple[str, float], ...]
) -> LevelTokens:
    spelled = [
        tokenizer.encode(f"{opening}{between}{w}", add_special_tokens=False) for w, _ in words
    ]
    stem = tokenizer.encode(opening, add_special_tokens=False) if opening else []
    # A tokenizer may join the end of the opening with the word: `>good`.
    length = min(_shared(stem, one) for one in spelled)
    firsts = [one[length] if len(one) > length else -1 for one in spelled]
    for (word, token), (other, same) in combinations(
        zip((w for w, _ in words), firsts, strict=True), 2
    ):
        if token == same:
            raise ModelError(
                f"mode=levels, answer.levels: {word!r} and {other!r} begin with the same token of "
                "this model's tokenizer, so that one pass cannot compare them; choose other words, "
                "or mode=expected"
            )
    return LevelTokens(tuple(stem[:length]), tuple(firsts), tuple(value for _, value in words))


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """Tokens that two sequences have in common at their beginning."""
    for number, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return number
    return min(len(first), len(second))


@torch.no_grad()
def level_logits(head: nn.Module, hidden: Tensor, words: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Logits of the words at the next position.

    Args:
        head: output head.
        hidden: [B, H] final hidden states of the stems' last tokens.
        words: N tokens.

    Returns:
        [B, N] logits, and [B] log of the sum of exp over the whole vocabulary.
    """
    columns = torch.tensor(words, device=hidden.device)
    found, totals = [], []
    for start in range(0, len(hidden), _ROWS):
        logits = scaled_logits(head, hidden[start : start + _ROWS], 1.0)
        found.append(logits[:, columns])
        totals.append(torch.logsumexp(logits, dim=-1))
    return torch.cat(found), torch.cat(totals)


_ROWS = MAX_LOGITS // 2**18
"""Rows of logits at a time, for vocabularies up to 2^18."""


def level_scores(logits: Tensor, total: Tensor, values: Sequence[float]) -> LevelScores:
    """The formulas of the module header.

    Args:
        logits: [B, N] of the words.
        total: [B] log of the sum of exp over the vocabulary.
        values: N, what the words stand for.
    """
    z, worth = logits.double(), torch.tensor(values, dtype=torch.float64, device=logits.device)
    p = z.softmax(dim=-1)
    score = p @ worth
    variance = (p * (worth - score[:, None]) ** 2).sum(dim=-1)
    # Rounding may take the probability beyond 1.
    lost = (1 - (z.logsumexp(dim=-1) - total.double()).exp()).clamp(min=0.0)
    return LevelScores(score, variance.sqrt(), lost)
