r"""Expected scores together with their standard deviation.

`vqr1.policy.expected_score` asks the model for the probability of each number as it spells it digit
by digit. The numbers X that this spelling gives, with the answer's first digit d from 1 to 5
(weights w(d) = p(d) / sum of p over 1 to 5), are

    d      with weight  w(d) * (1 - p("."|d) * sum over e of p(e|d.))
    d.e    with weight  w(d) * p("."|d) * p(e|d.) * (1 - sum over f of p(f|d.e))
    d.ef   with weight  w(d) * p("."|d) * p(e|d.) * p(f|d.e)

Their mean is the expected score; std = sqrt(sum of weight * (X - mean)^2) says how undecided the
model is between numbers. It knows nothing of what another reasoning would have led to.

Not here: making the beginning of the answer (`scorer.py`).

Shapes: B prompts; 5 first digits, 10 of each later one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from vqr1.policy.expected_score import FIRST, digit_tokens, expectation
from vqr1.policy.shared_prompt import response_logprobs
from vqr1.policy.vision import VisionFeatures
from vqr1.records import PromptBatch


@dataclass(frozen=True)
class DigitScores:
    """Expectations of B answers.

    Attributes:
        score: [B] float64 expected score, within [1, 6).
        std: [B] float64 standard deviation of the number, at least 0.
        mass: [B] float64 probability, in [0, 1], that the answer begins with a digit from 1 to 5.
    """

    score: Tensor
    std: Tensor
    mass: Tensor


@torch.no_grad()
def digit_scores(
    model: nn.Module,
    tokenizer: Any,
    prompts: PromptBatch,
    beginnings: Sequence[str],
    *,
    vision: VisionFeatures | None = None,
    micro_batch_tokens: int | None = None,
) -> DigitScores:
    """Expected score and standard deviation of each of B answers.

    Args:
        model: the policy in eval mode, bare or wrapped.
        tokenizer: its tokenizer.
        prompts: B prompts.
        beginnings: B beginnings of a response, up to and including `<answer>`.
        vision: features of the B images; None runs the vision tower here.
        micro_batch_tokens: most tokens in one forward pass; None puts all into one.

    Raises:
        ModelError: the tokenizer does not spell numbers digit by digit.
    """
    spelling = digit_tokens(tokenizer)
    numbers = [
        (spelling.digits[d], spelling.point, spelling.digits[e], spelling.digits[f])
        for d, e, f in product(FIRST, range(10), range(10))
    ]
    extended = replace(
        prompts,
        input_ids=tuple(
            torch.cat([ids, ids.new_tensor(tokenizer.encode(text, add_special_tokens=False))])
            for ids, text in zip(prompts.input_ids, beginnings, strict=True)
        ),
    )
    tokens = torch.tensor(numbers).expand(len(prompts), -1, -1)
    logprobs = response_logprobs(
        model,
        extended,
        tokens,
        torch.ones_like(tokens, dtype=torch.bool),
        vision=vision,
        micro_batch_tokens=micro_batch_tokens,
    ).logprobs.cpu()
    found = expectation(logprobs)
    return DigitScores(found.score, deviation(logprobs, found.score), found.mass)


def deviation(logprobs: Tensor, mean: Tensor) -> Tensor:
    """[B] float64 standard deviation of the spelled number: the module header's formula.

    Args:
        logprobs: [B, 500, 4] natural log-probabilities of the tokens of each spelling d.ef, each
            given those before it; d slowest, f fastest.
        mean: [B] float64 expected scores of the same log-probabilities.
    """
    p = logprobs.double().exp().view(-1, len(FIRST), 10, 10, 4)
    digit = torch.arange(10, dtype=torch.float64)
    first = torch.tensor(FIRST, dtype=torch.float64)
    first_weight = p[:, :, 0, 0, 0] / p[:, :, 0, 0, 0].sum(dim=1, keepdim=True)
    tenth_weight = (first_weight * p[:, :, 0, 0, 1])[..., None] * p[:, :, :, 0, 2]
    last_weight = tenth_weight[..., None] * p[..., 3]

    centred = first - mean[:, None]
    tenths = centred[..., None] + digit / 10
    hundredths = tenths[..., None] + digit / 100
    variance = (
        ((first_weight - tenth_weight.sum(dim=-1)) * centred**2).sum(dim=1)
        + ((tenth_weight - last_weight.sum(dim=-1)) * tenths**2).sum(dim=(1, 2))
        + (last_weight * hundredths**2).sum(dim=(1, 2, 3))
    )
    # A remaining weight of 0 can come out as minus a rounding error.
    return variance.clamp(min=0.0).sqrt()
