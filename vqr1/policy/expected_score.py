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

One pass per image: prompt and beginning are computed once, and the 50 spellings d.e continue them
(`vqr1.policy.shared_prompt`).

Not here: making the beginning (`vqr1.evaluation.scorers`, `vqr1.scoring.backends`).

Shapes: B prompts; 5 first digits, 10 of each later one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vqr1.errors import ModelError
from vqr1.policy.backbone import unwrap
from vqr1.policy.output_head import target_logprobs
from vqr1.policy.shared_prompt import PackedPrompts, pack_prompts, plan_micro_batches, run_packed
from vqr1.policy.tree_attention import TreeLayout
from vqr1.policy.vision import VisionFeatures, encode_images
from vqr1.records import PromptBatch

FIRST = (1, 2, 3, 4, 5)

OPEN_TAG = "<answer>"

MIN_MASS = 0.5
"""`mass` below which an expected score is invalid."""

_FED = (50, 3)
"""Spellings d.e that are computed for each image, and tokens of each."""


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
    model: nn.Module,
    tokenizer: Any,
    prompts: PromptBatch,
    beginnings: Sequence[str],
    *,
    vision: VisionFeatures | None = None,
    micro_batch_tokens: int | None = None,
) -> ExpectedScores:
    """Expected score of each of B answers.

    Args:
        model: the policy, bare or wrapped.
        tokenizer: its tokenizer.
        prompts: B prompts.
        beginnings: B beginnings of a response, up to and including `<answer>`.
        vision: features of the B images; None runs the vision tower here.
        micro_batch_tokens: most tokens in one forward pass; None puts all into one.

    Raises:
        ModelError: the tokenizer does not spell numbers digit by digit.
    """
    spelling = digit_tokens(tokenizer)
    extended = replace(
        prompts,
        input_ids=tuple(
            torch.cat([ids, ids.new_tensor(tokenizer.encode(text, add_special_tokens=False))])
            for ids, text in zip(prompts.input_ids, beginnings, strict=True)
        ),
    )
    parts = [slice(0, len(prompts))]
    if micro_batch_tokens is not None:
        parts = plan_micro_batches(
            extended, torch.ones(len(prompts), *_FED, dtype=torch.bool), micro_batch_tokens
        )
    was_training = model.training
    model.eval()
    try:
        found = []
        for part in parts:
            chosen = extended.select(part.start, part.stop)
            encoded = (
                encode_images(model, chosen)
                if vision is None
                else vision.select(part.start, part.stop)
            )
            found.append(_spelling_logprobs(model, pack_prompts(model, chosen, encoded), spelling))
    finally:
        model.train(was_training)
    return expectation(torch.cat(found))


def _spelling_logprobs(model: nn.Module, packed: PackedPrompts, tokens: DigitTokens) -> Tensor:
    """[A, 500, 4] log-probabilities of the spellings d.ef, d slowest.

    The 50 beginnings d.e are enough to compute: at each of their tokens the next one's distribution
    is read, and that behind d.e holds the probabilities of all f.
    """
    core = unwrap(model)
    text = core.model.language_model
    device = packed.embeds.device
    images, (spellings, length) = len(packed.lengths), _FED
    layout = TreeLayout.build(packed.lengths, [[length] * spellings] * images, device)
    steps = torch.arange(length, device=device).repeat(spellings)
    following = torch.tensor(packed.next_positions, device=device)
    positions = (following[:, None] + steps).flatten()
    digits = torch.tensor(tokens.digits, device=device)
    d, e = torch.meshgrid(digits[list(FIRST)], digits, indexing="ij")
    inputs = torch.stack([d, torch.full_like(d, tokens.point), e], dim=-1).flatten().repeat(images)
    hidden = run_packed(
        model,
        torch.cat([packed.embeds, text.embed_tokens(inputs)]),
        torch.cat([packed.positions, positions.expand(3, -1)], dim=1),
        layout,
    )

    def next_logprobs(rows: Tensor, wanted: Tensor) -> Tensor:
        """[..., T] log-probabilities of T next tokens after hidden states [..., H]."""
        flat = rows.flatten(0, -2)
        found, _ = target_logprobs(core.lm_head, flat, wanted.expand(len(flat), -1))
        return found.view(*rows.shape[:-1], len(wanted))

    fed = hidden[layout.prompt_rows :].view(images, len(FIRST), 10, length, -1)
    first = next_logprobs(hidden[layout.last_prompt_rows], digits[list(FIRST)])
    point = next_logprobs(fed[:, :, 0, 0], digits.new_tensor([tokens.point]))
    tenth = next_logprobs(fed[:, :, 0, 1], digits)
    last = next_logprobs(fed[:, :, :, 2], digits)
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
