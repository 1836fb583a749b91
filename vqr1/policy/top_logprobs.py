r"""The expected score from what a server reports of one greedy answer.

Servers report, for each token that they wrote, the likeliest tokens in its place (`top_logprobs`).
That is the distribution after every beginning of the number that WAS written. After another one
("3" where the answer is "4.25") it is not known, and the place of the written answer that is like
it stands in: after as many digits in front of the point, after the point, or after as many
decimals. After more digits in front of the point than were written, the place after the last
written one stands in. So for 1 to 5

    p(d) p("."|written digit) p(e|written digit, ".") ...   for   p(d) p("."|d) p(e|d.) ...

while `expected_scores` follows every spelling. Further approximations: a token that a server does
not list (it lists twenty or so) counts as impossible, and numbers after places that the answer
does not have (decimals where it has none) are not known. Both are part of the lost probability;
nothing is scaled up to make up for them. The grammar, its closing tag and everything else are as in
`vqr1.policy.expected_score`.

Against the exact expectation of the packaged policy, whose numbers have a standard deviation of .68
an image, the error is .08 on average and .09 at most over twelve images with and without
reasoning (`tests/policy/test_top_logprobs.py`); a policy that is surer of its number has less.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from vqr1.iqa.answers import PUBLISHED, AnswerForm
from vqr1.iqa.number_grammar import Grammar, grammar_of
from vqr1.policy.expected_score import MIN_MASS, until_answer
from vqr1.policy.spelling_tree import split_at_end

LEAST = 1e-9
"""Probability of a number's beginning below which it is not followed; it counts as lost."""


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


@dataclass(frozen=True)
class TokenExpectation:
    """What one answer's tokens state of its number.

    Attributes:
        score: expected score; None where invalid.
        std: standard deviation of the number; None where invalid.
        lost: probability in [0, 1] of what is no number of the grammar, or not known; None where no
            `<answer>` begins.
    """

    score: float | None = None
    std: float | None = None
    lost: float | None = None


@dataclass(frozen=True)
class _Place:
    """What may follow a beginning of the number.

    Attributes:
        before: the beginning that was written.
        follows: probability of each continuation's text, at most 1 together.
    """

    before: str
    follows: Mapping[str, float]


def expected_from_tokens(
    tokens: Sequence[ReportedToken], form: AnswerForm = PUBLISHED
) -> TokenExpectation:
    """Expected score, standard deviation and lost probability of an answer.

    Args:
        tokens: all tokens of the answer.
        form: how scores are written; it has an opening.

    Returns:
        No score where no `<answer>` begins, or where the numbers of the grammar have less than half
        of the probability there.
    """
    places = list(_places(tokens, form.opening or ""))
    if not places:
        return TokenExpectation()
    numbers = _numbers(places, grammar_of(form), form.score_ends)
    mass = math.fsum(numbers.values())
    lost = min(max(0.0, 1 - mass), 1.0)
    if not (mass > 0 if form.levels else mass >= MIN_MASS):
        return TokenExpectation(lost=lost)
    score = math.fsum(weight * number for number, weight in numbers.items()) / mass
    squares = math.fsum(weight * (number - score) ** 2 for number, weight in numbers.items())
    return TokenExpectation(score, math.sqrt(squares / mass), lost)


def _places(tokens: Sequence[ReportedToken], opening: str) -> Iterator[_Place]:
    """The places after the last `<answer>` (or other opening), from the token on that ends it.

    That token may end the tag and begin the number (">-"); its alternatives are those that end the
    tag too.
    """
    beginning = until_answer("".join(token.text for token in tokens), opening)
    if beginning is None:
        return
    length = 0
    for position, token in enumerate(tokens):
        tail = beginning[length:]
        length += len(token.text)
        if length < len(beginning):
            continue
        texts = {t: p for t, p in token.alternatives.items() if t.startswith(tail)}
        whole = math.fsum(math.exp(p) for p in texts.values())
        yield _Place("", {t[len(tail) :]: math.exp(p) / whole for t, p in texts.items()})
        before = token.text[len(tail) :]
        for further in tokens[position + 1 :]:
            yield _Place(before, {t: math.exp(p) for t, p in further.alternatives.items()})
            before += further.text
        return


def _numbers(places: Sequence[_Place], grammar: Grammar, ends: Sequence[str]) -> dict[float, float]:
    """Probability of each number of the grammar."""
    first = places[0]
    # What is written after a number is no beginning of one.
    written = [place for place in places[1:] if grammar.continues(place.before)]
    numbers: dict[float, float] = {}
    level = {"": 1.0}
    follows = {"": first.follows}
    while level:
        further: dict[str, float] = {}
        for text, mass in level.items():
            for piece, share in follows[text].items():
                found = split_at_end(text + piece, ends)
                weight = mass * share
                if found is None or weight < LEAST:
                    continue
                number, closed = found
                value = grammar.value(number)
                closed = closed or (not ends and value is not None)
                if not closed and grammar.continues(number):
                    further[number] = further.get(number, 0.0) + weight
                elif closed and value is not None:
                    numbers[value] = numbers.get(value, 0.0) + weight
        level = further
        follows = {text: _follows(text, written) for text in level}
    return numbers


def _follows(text: str, written: Sequence[_Place]) -> dict[str, float]:
    """Probability of what continues a number's beginning; empty where that is not known."""
    same = [place for place in written if place.before == text]
    like = same or [place for place in written if _kind(place.before) == _kind(text)]
    if not like and "." not in text:
        like = [place for place in written if place.before and "." not in place.before]
    # Special tokens have no text, and would not lead on.
    return {piece: p for piece, p in like[-1].follows.items() if piece} if like else {}


def _kind(text: str) -> tuple[int, bool, int]:
    """Digits in front of the point, whether it is there, digits after it."""
    whole, point, decimals = text.lstrip("-").partition(".")
    return len(whole), bool(point), len(decimals)
