from __future__ import annotations

import math
import re
import timeit
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from vqr1.iqa.answers import PUBLISHED, Answer, AnswerForm, FreeText, TaggedAnswer, accepted_range


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
    assert PUBLISHED.parse(f"<think>a</think><answer>{content}</answer>").score == score


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
    assert PUBLISHED.parse(text).score == score


def test_other_scales() -> None:
    # 0 to 100 accepts -25 to 125; a number out of 100 is on the scale, one out of 5 is not.
    assert accepted_range((0.0, 100.0)) == (-25.0, 125.0)
    for content, score in (("42", 42.0), ("70/100", 70.0), ("3/5", None), ("126", None)):
        printed = f"<answer>{content}</answer>"
        assert TaggedAnswer(score_range=(0.0, 100.0)).parse(printed).score == score


def test_reasoning_and_published_format_rule() -> None:
    whole = "<think>soft\nedges</think>\n<answer>2.10</answer>"
    assert PUBLISHED.parse(whole) == Answer(2.1, "soft\nedges", True)
    assert not PUBLISHED.parse(whole + " ").format_compliant
    assert not PUBLISHED.parse(" " + whole).format_compliant
    assert not PUBLISHED.parse("<answer>2.10</answer>").format_compliant
    # The published rule looks at the tags only, not at what the answer holds.
    assert PUBLISHED.parse("<think></think><answer></answer>").format_compliant


def test_other_formats() -> None:
    assert TaggedAnswer().parse("<answer>2</answer>").format_compliant
    assert not TaggedAnswer().parse("so <answer>2</answer>").format_compliant
    assert FreeText().parse("anything\nat all").format_compliant


def test_tags_of_other_names() -> None:
    form = TaggedAnswer(tag="rating", reasoning="why")
    printed = "<why>soft</why> <rating>2.5</rating>"
    assert form.parse(printed) == Answer(2.5, "soft", True)
    # The published tags are prose here, and the other way round.
    assert form.parse("<think>soft</think><answer>2.5</answer>") == Answer(None, None, False)
    assert PUBLISHED.parse(printed) == Answer(None, None, False)
    assert (form.opening, form.closing, form.reasons) == ("<rating>", "</rating>", True)


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        # <think> is 7 characters, soft 4, </think> 8, <answer> 8: 7 to 11, then 27 to 30.
        ("<think>soft</think><answer>2.1</answer>", {"reasoning": (7, 11), "score": (27, 30)}),
        # An answer that is no score has its place all the same; the last answer counts.
        ("<answer>x</answer><answer>good</answer>", {"score": (26, 30)}),
        (" 3.5. ", {"score": (1, 4)}),
        ("<think>never ends <answer>3</answer>", {"score": (26, 27)}),
        ("<answer>3", {}),
        ("", {}),
    ],
)
def test_where_the_fields_stand(text: str, spans: dict[str, tuple[int, int]]) -> None:
    assert PUBLISHED.spans(text) == spans


def test_a_description_has_no_score_and_no_fields() -> None:
    assert FreeText().parse("<answer>3</answer>") == Answer(None, None, True)
    assert FreeText().spans("<answer>3</answer>") == {}
    assert not FreeText.scored


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"score_range": (5.0, 1.0)}, "score_range"),
        ({"score_range": (1.0, math.inf)}, "score_range"),
        ({"tag": "a b"}, "tag"),
        ({"reasoning": "answer"}, "reasoning"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_forms_that_there_cannot_be(arguments: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError) as raised:
        TaggedAnswer(**arguments)
    assert [error["loc"] for error in raised.value.errors()] == [(key,)]


def test_reading_is_linear() -> None:
    # A thousand times the text takes a thousand times as long, and not a million times.
    form, tags = TaggedAnswer(), "<answer>" * 100
    short, long = (min(timeit.repeat(lambda n=n: form.parse(tags * n), number=1, repeat=3))
                   for n in (10, 1000))  # fmt: skip
    assert long < 1000 * short


_PATTERNS: tuple[tuple[AnswerForm, re.Pattern[str]], ...] = (
    (PUBLISHED, re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)),
    (TaggedAnswer(), re.compile(r"<answer>.*?</answer>", re.DOTALL)),
)
_PIECES = st.sampled_from(
    ["<think>", "</think>", "<answer>", "</answer>", " ", "\n", "3.5", "x", "<", "nk>", "</ans"]
)


@settings(max_examples=500, deadline=None)
@given(st.lists(_PIECES, max_size=9).map("".join))
def test_form_is_the_published_pattern(text: str) -> None:
    for form, pattern in _PATTERNS:
        assert form.parse(text).format_compliant == bool(pattern.fullmatch(text))


@pytest.mark.medium
@settings(max_examples=500, deadline=None)
@given(st.text() | st.text(alphabet="<>/answerthink0123456789.%-+e \n"))
def test_never_raises_and_never_invents(text: str) -> None:
    score = PUBLISHED.parse(text).score
    if score is not None:
        assert 0 <= score <= 6
        assert score in {float(n) for n in re.findall(r"[0-9]{1,12}(?:\.[0-9]{1,20})?", text)}
