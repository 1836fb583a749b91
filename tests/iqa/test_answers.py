from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqr1.iqa.answers import Answer, accepted_range, parse_answer


@pytest.mark.parametrize(
    ("content", "score"),
    [
        ("3.42", 3.42), (" 4 ", 4.0), ("+3", 3.0), ("3.", 3.0), ("03.50", 3.5), ("3.5.", 3.5),
        ("3.123456789012345", 3.123456789012345), ("\n3.5\n", 3.5), ("3.5\xa0", 3.5),
        ("Score: 3.42", 3.42), ("**3.5**", 3.5), ("Overall rating = 3.5", 3.5), ("`4`", 4.0),
        ("The score is 3.5", 3.5), ("评分: 3.5", 3.5), ("Score: **3.5**", 3.5), ("($3.5$)", 3.5),
        ("3.5/5", 3.5), ("3.5 out of 5", 3.5), ("5/5", 5.0), ("3.5 / 5.0", 3.5),
        # The ends of the accepted range for 1 to 5: 1 - 4/4 and 5 + 4/4.
        ("0.87", 0.87), ("0", 0.0), ("6", 6.0), ("6.01", None), ("-0.1", None), ("42", None),
        ("-3", None), ("100", None), ("1000000000000", None), ("9" * 400, None),
        ("3-4", None), ("3 - 4", None), ("3 to 4", None), ("3 4", None), ("3.4.5", None),
        ("3\n4", None), ("3 or 4", None), ("3..4", None), ("3/4/5", None), ("3.5/5/5", None),
        ("3,5", None), ("1,000", None), ("3 5", None), ("3'5", None),
        ("70%", None), ("3%", None), ("1e3", None), ("3e0", None), ("3E-1", None), ("0x3", None),
        ("3.5f", None), ("3j", None), ("1_0", None), (".5", None), ("--3", None), ("+-3", None),
        ("7/10", None), ("4/6", None), ("3.5 of 5", None), ("3.5/5%", None), ("3/5e1", None),
        ("good", None), ("", None), (" ", None), ("nan", None), ("inf", None), ("-inf", None),
        ("None", None), ("null", None), ("N/A", None), ("three", None), ("3.5 stars", None),
        ("\N{ARABIC-INDIC DIGIT THREE}", None), ("\N{DEVANAGARI DIGIT THREE}", None),
        ("\N{FULLWIDTH DIGIT THREE}", None), ("\N{FULLWIDTH DIGIT THREE}3", None),
        ("3\N{ARABIC-INDIC DIGIT THREE}", None), ("3\N{SUPERSCRIPT TWO}", None),
        ("\N{VULGAR FRACTION ONE HALF}: 3", None), ("3\N{FULLWIDTH FULL STOP}5", None),
        ("\N{MINUS SIGN}3", None), ("\N{EN DASH}3", None), ("3\N{EN DASH}4", None),
        ("\N{CIRCLED DIGIT THREE}", None), ("3\N{ZERO WIDTH SPACE}", None),
        ("<3", None), (">3", None), ("~3", None), ("at least 3", None), ("not 3", None),
        ("3\x00", None), ("\x003", None), ("3\ud800", None), ("\udfff", None),
        ("x" * 201 + ": 3", None), (" " * 201 + "3", None), ("3" + " " * 10_000, None),
    ],
)  # fmt: skip
def test_number_inside_the_answer(content: str, score: float | None) -> None:
    assert parse_answer(f"<think>a</think><answer>{content}</answer>").score == score


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("3.5", 3.5),
        (" 2 \n", 2.0),
        ("42", None),
        ("about 3.5", None),
        ("Score: 3.5", None),
        ("<think>a</think> 3.5", None),
        ("<answer>3.5", None),
        ("3.5</answer>", None),
        ("<answer>1</answer><answer>2</answer>", 2.0),
        ("<answer><answer>4</answer></answer>", 4.0),
        ("<answer>1<answer>4</answer></answer>", 4.0),
        ("<answer>1</answer> or 2</answer>", None),
        ("<answer>1</answer><answer>2", None),
        ("</answer>3<answer>", None),
        ("<think>in <answer> tags</think><answer>3</answer>", 3.0),
        ("<think><answer>2</answer></think>", None),
        ("<ANSWER>3</ANSWER>", None),
        ("<answer >3</answer>", None),
        ("&lt;answer&gt;3&lt;/answer&gt;", None),
        ("<answer>1</answer>" * 5000, 1.0),
        ("", None),
    ],
)
def test_where_the_answer_is_looked_for(text: str, score: float | None) -> None:
    assert parse_answer(text).score == score


def test_other_scales() -> None:
    # 0 to 100 accepts -25 to 125; a number out of 100 is on the scale, one out of 5 is not.
    assert accepted_range((0.0, 100.0)) == (-25.0, 125.0)
    for content, score in (("42", 42.0), ("70/100", 70.0), ("3/5", None), ("126", None)):
        said = f"<answer>{content}</answer>"
        assert parse_answer(said, "answer", (0.0, 100.0)).score == score


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


_PUBLISHED = {
    "think_answer": re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL),
    "answer": re.compile(r"<answer>.*?</answer>", re.DOTALL),
}
_PIECES = st.sampled_from(
    ["<think>", "</think>", "<answer>", "</answer>", " ", "\n", "3.5", "x", "<", "nk>", "</ans"]
)


@settings(max_examples=500, deadline=None)
@given(st.lists(_PIECES, max_size=9).map("".join))
def test_form_is_the_published_pattern(text: str) -> None:
    for name, pattern in _PUBLISHED.items():
        assert parse_answer(text, name).well_formed == bool(pattern.fullmatch(text))  # type: ignore[arg-type]


@pytest.mark.medium
@settings(max_examples=500, deadline=None)
@given(st.text() | st.text(alphabet="<>/answerthink0123456789.%-+e \n"))
def test_never_raises_and_never_invents(text: str) -> None:
    score = parse_answer(text).score
    if score is not None:
        assert 0 <= score <= 6
        assert score in {float(n) for n in re.findall(r"[0-9]{1,12}(?:\.[0-9]{1,20})?", text)}
