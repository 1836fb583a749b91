"""The grammar of numbers against every text, and against the parser of answers."""

from __future__ import annotations

from itertools import product

import pytest

from vqr1.iqa.answers import ScoreRange, TaggedAnswer, accepted_range
from vqr1.iqa.number_grammar import NumberGrammar

SCALES: tuple[ScoreRange, ...] = (
    (1.0, 5.0), (0.0, 10.0), (0.0, 1.0), (0.0, 0.3), (50.0, 60.0), (-3.0, -1.0), (0.001, 0.002),
)  # fmt: skip


def written_out(scale: ScoreRange) -> set[str]:
    """All numbers of a scale below 1000, from all texts of the right form."""
    low, high = accepted_range(scale)
    texts = set()
    for sign, whole in product(("", "-") if low < 0 else ("",), range(100)):
        for decimals in ("", *(f".{d}" for d in range(10)), *(f".{d:02}" for d in range(100))):
            text = f"{sign}{whole}{decimals}"
            if low <= float(text) <= high:
                texts.add(text)
    return texts


@pytest.mark.parametrize("scale", SCALES)
def test_numbers_and_their_beginnings(scale: ScoreRange) -> None:
    grammar, numbers = NumberGrammar(scale), written_out(scale)
    beginnings = {number[:size] for number in numbers for size in range(len(number) + 1)}
    # Every text of up to 6 characters that may matter: beginnings, and those with one more.
    texts = {b + c for b in beginnings | {""} for c in ("", *"0123456789.-+ 5<")} | {"00", "007"}
    for text in texts:
        assert (grammar.value(text) is not None) == (text in numbers), text
        assert grammar.continues(text) == (text in beginnings), text


def test_how_many_there_are() -> None:
    # 0 to 6: 7 whole numbers, 61 with one decimal, 601 with two.
    assert len(written_out((1.0, 5.0))) == 669
    # -2.5 to 12.5: 15 + 151 + 1501, and -0, -0.0 and -0.00.
    assert len(written_out((0.0, 10.0))) == 1670


@pytest.mark.parametrize("scale", SCALES)
def test_every_number_is_an_answer(scale: ScoreRange) -> None:
    grammar = NumberGrammar(scale)
    for number in written_out(scale):
        answer = TaggedAnswer(score_range=scale).parse(f"<answer>{number}</answer>")
        assert answer.score == grammar.value(number)


@pytest.mark.parametrize(
    "text", ["6.01", "7", "-0", "-1", "03", "3.", ".5", "3.427", "+3", "", "x"]
)
def test_no_numbers_of_1_to_5(text: str) -> None:
    assert NumberGrammar((1.0, 5.0)).value(text) is None


def test_huge_scales_end() -> None:
    grammar = NumberGrammar((0.0, 1e300))
    assert grammar.value("999999999999.99") == 999999999999.99
    assert not grammar.continues("1000000000000")
    assert not NumberGrammar((1e200, 1.1e200)).continues("")
