from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqr1.iqa.answers import Answer, parse_answer


@pytest.mark.parametrize(
    ("content", "score"),
    [
        ("3.42", 3.42),
        (" 4 ", 4.0),
        ("+3", 3.0),
        ("-3", -3.0),
        ("Score: 3.42", 3.42),
        ("3.", 3.0),
        ("3.5/5", 3.5),
        ("3.5 out of 5", 3.5),
        ("5/5", 5.0),
        ("0.87", 0.87),
        ("100", 100.0),
        ("101", None),
        ("3-4", None),
        ("3 to 4", None),
        ("3.4.5", None),
        ("3,5", None),
        ("70%", None),
        ("1e3", None),
        ("7/10", None),
        ("good", None),
        ("", None),
        ("nan", None),
        ("٣", None),
    ],
)
def test_number_inside_the_answer(content: str, score: float | None) -> None:
    assert parse_answer(f"<think>a</think><answer>{content}</answer>").score == score


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("3.5", 3.5),
        (" 2 \n", 2.0),
        ("about 3.5", None),
        ("<answer>3.5", None),
        ("3.5</answer>", None),
        ("<answer>1</answer><answer>2</answer>", 2.0),
        ("<answer><answer>4</answer></answer>", 4.0),
        ("<answer>1</answer> or 2</answer>", None),
        ("", None),
    ],
)
def test_where_the_answer_is_looked_for(text: str, score: float | None) -> None:
    assert parse_answer(text).score == score


def test_reasoning_and_published_format_rule() -> None:
    whole = "<think>soft\nedges</think>\n<answer>2.10</answer>"
    assert parse_answer(whole) == Answer(2.1, "soft\nedges", True)
    assert not parse_answer(whole + " ").well_formed
    assert not parse_answer(" " + whole).well_formed
    assert not parse_answer("<answer>2.10</answer>").well_formed
    # The published rule looks at the tags only, not at what the answer holds.
    assert parse_answer("<think></think><answer></answer>").well_formed


def test_other_formats() -> None:
    assert parse_answer("<answer>2</answer>", "answer").well_formed
    assert not parse_answer("so <answer>2</answer>", "answer").well_formed
    assert parse_answer("anything\nat all", "free").well_formed


@settings(max_examples=500, deadline=None)
@given(st.text() | st.text(alphabet="<>/answerthink0123456789.%-+e \n"))
def test_never_raises_and_never_invents(text: str) -> None:
    answer = parse_answer(text)
    if answer.score is not None:
        assert abs(answer.score) <= 100
        assert any(character in text for character in "0123456789")


def test_time_is_linear_in_the_text() -> None:
    # A quadratic rule would take minutes on these.
    started = time.monotonic()
    for text in ("<answer>" * 100_000, "9" * 500_000, "<think>" * 100_000, "1." * 200_000):
        parse_answer(text)
        parse_answer(f"<answer>{text}</answer>")
    assert time.monotonic() - started < 20
