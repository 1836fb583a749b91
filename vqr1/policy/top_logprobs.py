r"""The expected score from what a server tells of one greedy answer.

Servers report, for each token that they wrote, the likeliest tokens in its place (`top_logprobs`).
That is the distribution of the first digit, and of the further ones AFTER the likeliest digits:
what would follow another first digit is not known. The decimals are therefore taken as independent
of the first digit here, where `expected_scores` follows every spelling:

    p(d) * p(".") * p(e) * p(f)    in place of    p(d) * p("."|d) * p(e|d.) * p(f|d.e)

Digits that a server does not list (it lists twenty or so) count as impossible; all ten digits and
the point are normally among them. Everything else is as in `vqr1.policy.expected_score`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vqr1.policy.expected_score import (
    FIRST,
    MIN_MASS,
    expectation,
    until_answer,
)


@dataclass(frozen=True)
class ReportedToken:
    """One token of a greedy answer.

    Attributes:
        text: what it adds to the answer.
        alternatives: natural log-probability of the likeliest tokens in its place, itself among
            them, by their text.
    """

    text: str
    alternatives: Mapping[str, float]


def expected_from_tokens(tokens: Sequence[ReportedToken]) -> tuple[float, float] | None:
    """Expected score and standard deviation of an answer.

    Args:
        tokens: all tokens of the answer.

    Returns:
        None where no `<answer>` begins, or where the digits 1 to 5 have less than half of the
        probability there.
    """
    place = _first_of_answer(tokens)
    if place is None:
        return None
    spelling = [token.alternatives for token in tokens[place : place + 4]]
    found = expectation(_all_spellings(spelling)[None])
    if not float(found.mass) >= MIN_MASS:
        return None
    return float(found.score), float(found.std)


def _first_of_answer(tokens: Sequence[ReportedToken]) -> int | None:
    """Position of the token behind the last `<answer>`; None where none begins there."""
    beginning = until_answer("".join(token.text for token in tokens))
    length = 0
    for position, token in enumerate(tokens):
        if beginning is not None and length == len(beginning):
            return position
        length += len(token.text)
    return None


def _all_spellings(steps: Sequence[Mapping[str, float]]) -> Tensor:
    """[500, 4] log-probabilities of d.ef, d slowest, as `expectation` takes them.

    Args:
        steps: up to four places of the answer: log-probability by token text.
    """
    known = [*steps, *[{}] * (4 - len(steps))]

    def row(step: Mapping[str, float], texts: Sequence[str]) -> Tensor:
        return torch.tensor([step.get(text, -math.inf) for text in texts], dtype=torch.float64)

    digits = "0123456789"
    first = row(known[0], [str(digit) for digit in FIRST])
    point = row(known[1], ".")
    tenth, last = row(known[2], digits), row(known[3], digits)
    table = torch.empty(len(FIRST), 10, 10, 4, dtype=torch.float64)
    table[..., 0] = first[:, None, None]
    table[..., 1] = point
    table[..., 2] = tenth[None, :, None]
    table[..., 3] = last[None, None, :]
    return table.view(-1, 4)
