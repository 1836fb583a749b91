r"""The expected score: the mean over the probabilities of an answer's digits, without sampling.

After a given beginning of a response (reasoning and `<answer>`, or `<answer>` alone) the model is
asked how likely each number is as it spells it digit by digit. With p(.|s) the next token's
probability after the text s, D the digits 1 to 5 and d, e, f single digits:

    E = sum over d in D of  p(d) / sum over D of p  *  ( d + p("."|d) * sum over e of
            p(e|d.) * ( e / 10 + sum over f of p(f|d.e) * f / 100 ) )

The standard deviation of the same distribution, sqrt(sum of weight * (X - E)^2) over the numbers X
that end after d, after d.e or after d.ef, says how undecided the model is between numbers. It knows
nothing of what another reasoning would have led to.

A number that ends early ("4", "3.5") contributes what it says. What lies behind the second decimal
is not looked at. The denominator, the probability that the answer begins with a digit from 1 to 5
at all, is returned as `mass`: where it is small the expectation says little, and the caller treats
the answer as invalid.

One pass per image: prompt and beginning are computed once. The spellings continue them as a tree of
60 tokens (5 digits d, a point behind each, 10 digits e behind each point), in which every token
sees the prompt, the beginning and those it comes after (`vqr1.policy.prompt_state`).

Not here: making the beginning (`vqr1.rollout.expected`).

Shapes: B prompts; 5 first digits, 10 of each later one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from vqr1.errors import ModelError
from vqr1.policy.backbone import unwrap
from vqr1.policy.finite import check_answer_logprobs
from vqr1.policy.output_head import target_logprobs
from vqr1.policy.prompt_state import Continuation, PromptState, continue_prompts

FIRST = (1, 2, 3, 4, 5)

OPEN_TAG = "<answer>"

MIN_MASS = 0.5
"""`mass` below which an expected score is invalid."""

NODES = 60
"""Tokens of the tree of spellings: 5 first digits, 5 points, 50 digits behind them."""


def until_answer(text: str) -> str | None:
    """The response up to and including its last `<answer>`; None where it has none."""
    place = text.rfind(OPEN_TAG)
    return None if place < 0 else text[: place + len(OPEN_TAG)]


@dataclass(frozen=True)
class ExpectedScores:
    """Expectations of B answers.

    Attributes:
        score: [B] float64 expected score, within [1, 6).
        std: [B] float64 standard deviation of the number, at least 0.
        mass: [B] float64 probability, in [0, 1], that the answer begins with a digit from 1 to 5.
    """

    score: Tensor
    std: Tensor
    mass: Tensor


@dataclass(frozen=True)
class DigitTokens:
    """Token numbers of the characters that spell a score.

    Attributes:
        digits: tokens of 0 to 9.
        point: token of the decimal point.
    """

    digits: tuple[int, ...]
    point: int


def digit_tokens(tokenizer: Any) -> DigitTokens:
    """Tokens of digits and decimal point.

    Raises:
        ModelError: the tokenizer does not spell numbers digit by digit.
    """
    pieces = [tokenizer.encode(text, add_special_tokens=False) for text in (*"0123456789", ".")]
    whole = tokenizer.encode(">3.42", add_special_tokens=False)
    if any(len(piece) != 1 for piece in pieces) or whole[-4:] != [
        pieces[i][0] for i in (3, 10, 4, 2)
    ]:
        raise ModelError(
            "mode=expected: this model's tokenizer does not spell numbers digit by digit, so that "
            "the probabilities of scores cannot be read; use mode=sampled or mode=greedy"
        )
    return DigitTokens(tuple(piece[0] for piece in pieces[:10]), pieces[10][0])


@torch.no_grad()
def expected_scores(
    model: nn.Module, tokenizer: Any, prompt: PromptState, beginnings: Sequence[str]
) -> ExpectedScores:
    """Expected score of each of B answers.

    Args:
        model: the policy, bare or wrapped, in eval mode.
        tokenizer: its tokenizer.
        prompt: B prompts that the model has read.
        beginnings: B beginnings of a response, up to and including `<answer>`.

    Raises:
        ModelError: the tokenizer does not spell numbers digit by digit.
        NonFiniteError: logits hold NaN or infinity.
    """
    spelling = digit_tokens(tokenizer)
    begun = [tokenizer.encode(text, add_special_tokens=False) for text in beginnings]
    spelled = _spelling_logprobs(model, spelling, prompt, begun)
    check_answer_logprobs(spelled)
    return expectation(spelled)


@cache
def _ancestors() -> Tensor:
    """[60, 60] bool: which nodes of the tree each node sees: itself and those it comes after.

    Nodes: the digits d, then the points behind them, then the digits e, d slowest.
    """
    digits = torch.arange(len(FIRST))
    first = torch.cat([digits, digits, digits.repeat_interleave(10)])
    seen = torch.eye(NODES, dtype=torch.bool)
    nodes = torch.arange(NODES)
    seen[nodes[5:], first[5:]] = True
    seen[nodes[10:], first[10:] + 5] = True
    return seen


def _continuation(prompt: PromptState, lengths: Sequence[int]) -> Continuation:
    """Beginnings of B lengths, each followed by the tree."""
    device = prompt.last_hidden.device
    different = sorted(set(lengths))
    width = different[-1] + NODES
    tables = {}
    for length in different:
        table = torch.ones(width, width, dtype=torch.bool).tril()
        behind = slice(length, length + NODES)
        table[behind, behind] = _ancestors()
        tables[length] = table
    if len(different) == 1:
        return Continuation(prompt, tables[width - NODES][None, None].to(device), None)
    seen = torch.stack([tables[length] for length in lengths])[:, None]
    filled = torch.arange(width) < torch.tensor(lengths)[:, None] + NODES
    return Continuation(prompt, seen.to(device), filled.flatten().nonzero()[:, 0].to(device))


def _spelling_logprobs(
    model: nn.Module, tokens: DigitTokens, prompt: PromptState, begun: Sequence[Sequence[int]]
) -> Tensor:
    """[B, 500, 4] log-probabilities of the spellings d.ef, d slowest."""
    device = prompt.last_hidden.device
    digits = torch.tensor(tokens.digits, device=device)
    tree = [tokens.digits[d] for d in FIRST] + [tokens.point] * 5 + [*tokens.digits] * 5
    depth = torch.tensor([0] * 5 + [1] * 5 + [2] * 50)
    inputs, steps = [], []
    for beginning in begun:
        inputs += [*beginning, *tree]
        steps.append(torch.cat([torch.arange(len(beginning)), depth + len(beginning)]))
    lengths = [len(beginning) for beginning in begun]
    sizes = torch.tensor(lengths, device=device) + NODES
    hidden = continue_prompts(
        model,
        torch.tensor(inputs, device=device),
        torch.cat(steps).to(device) + prompt.next_positions.repeat_interleave(sizes),
        _continuation(prompt, lengths),
    )
    # Of each image the beginning's last token and the tree: [B, 61, H].
    ends = sizes.cumsum(0)[:, None]
    hidden = hidden[ends + torch.arange(-NODES - 1, 0, device=device)]
    head = unwrap(model).lm_head

    def next_logprobs(rows: Tensor, wanted: Tensor) -> Tensor:
        """[..., n] log-probabilities of n next tokens after hidden states [..., H]."""
        flat = rows.flatten(0, -2)
        found, _ = target_logprobs(head, flat, wanted.expand(len(flat), -1))
        return found.view(*rows.shape[:-1], len(wanted))

    images = len(begun)
    first = next_logprobs(hidden[:, 0], digits[list(FIRST)])
    point = next_logprobs(hidden[:, 1:6], digits.new_tensor([tokens.point]))
    tenth = next_logprobs(hidden[:, 6:11], digits)
    last = next_logprobs(hidden[:, 11:], digits).view(images, len(FIRST), 10, 10)
    spelled = (first[:, :, None, None], point[..., None], tenth[..., None], last)
    shape = (images, len(FIRST), 10, 10)
    return torch.stack([values.expand(shape) for values in spelled], dim=-1).flatten(1, 3)


def expectation(logprobs: Tensor) -> ExpectedScores:
    """The formula of the module header.

    Args:
        logprobs: [B, 500, 4] natural log-probabilities of the tokens of each spelling d.ef, each
            given those before it; d slowest, f fastest.
    """
    p = logprobs.double().exp().cpu().view(-1, len(FIRST), 10, 10, 4)
    ten = torch.arange(10, dtype=torch.float64)
    digit = torch.tensor(FIRST, dtype=torch.float64)
    mass = p[:, :, 0, 0, 0].sum(dim=-1)
    # Weights of the numbers that begin with d, with d.e and with d.ef.
    first = p[:, :, 0, 0, 0] / mass[:, None]
    tenth = (first * p[:, :, 0, 0, 1])[..., None] * p[:, :, :, 0, 2]
    last = tenth[..., None] * p[..., 3]
    # In each of the three: weight of the numbers that end there, and what they say.
    ends = (
        (first - tenth.sum(dim=-1), digit),
        (tenth - last.sum(dim=-1), digit[:, None] + ten / 10),
        (last, digit[:, None, None] + ten[:, None] / 10 + ten / 100),
    )
    score = torch.stack([(w * x).flatten(1).sum(dim=1) for w, x in ends]).sum(dim=0)
    variance = torch.zeros_like(score)
    for weight, number in ends:
        centred = number - score.view(-1, *[1] * number.ndim)
        variance = variance + (weight * centred**2).flatten(1).sum(dim=1)
    # A remaining weight of 0 can come out as minus a rounding error.
    return ExpectedScores(score, variance.clamp(min=0.0).sqrt(), mass)
