"""Expected scores from reported tokens, against a sum over all numbers written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vqr1.policy.top_logprobs import ReportedToken, expected_from_tokens


def token(text: str, **alternatives: float) -> ReportedToken:
    """A token with probabilities; `_1` names the digit 1, `_` the point."""
    places = {("." if name == "_" else name[1:]): math.log(p) for name, p in alternatives.items()}
    return ReportedToken(text, places or {text: 0.0})


OPENING = [token(piece) for piece in ("<think>", "a <answer> b", "</think>", "<", "answer", ">")]


def test_all_numbers_written_out() -> None:
    first, tenth, last = {3: 0.3, 4: 0.6}, {1: 0.7, 5: 0.2}, {0: 0.5, 9: 0.4}
    point = 0.9
    tokens = [
        *OPENING,
        token("4", _3=0.3, _4=0.6, _9=0.05),
        token(".", _=0.9),
        token("1", _1=0.7, _5=0.2),
        token("0", _0=0.5, _9=0.4),
        token("</answer>"),
    ]
    numbers, weights = [], []
    for d, p in first.items():
        share = p / 0.9  # of the digits 1 to 5: the mass is .3 + .6
        numbers.append(d)
        weights.append(share * (1 - point * 0.9))  # no second digit: 1 - point * (.7 + .2)
        for e, q in tenth.items():
            numbers.append(d + e / 10)
            weights.append(share * point * q * 0.1)  # 1 - (.5 + .4)
            for f, r in last.items():
                numbers.append(d + e / 10 + f / 100)
                weights.append(share * point * q * r)
    assert sum(weights) == pytest.approx(1)
    mean = np.average(numbers, weights=weights)
    found = expected_from_tokens(tokens)
    assert found is not None
    assert found[0] == pytest.approx(mean, abs=1e-12)
    assert found[1] == pytest.approx(
        math.sqrt(np.average((np.array(numbers) - mean) ** 2, weights=weights)), abs=1e-12
    )


def test_an_answer_that_ends_with_its_first_digit() -> None:
    found = expected_from_tokens([*OPENING, token("4", _4=0.5, _2=0.25)])
    # (4 * .5 + 2 * .25) / .75 and its deviation sqrt(2/3 * 1/3) * 2
    assert found == pytest.approx((10 / 3, 2 * math.sqrt(2) / 3))


@pytest.mark.parametrize(
    "tokens",
    [
        [],
        [token("<answer>")],
        [token("no tag"), token("4", _4=1.0)],
        [token("<answer>4"), token(".", _=1.0)],
        [*OPENING, token("x", _4=0.4)],
        [*OPENING, token("x")],
    ],
)
def test_no_expectation(tokens: list[ReportedToken]) -> None:
    assert expected_from_tokens(tokens) is None
