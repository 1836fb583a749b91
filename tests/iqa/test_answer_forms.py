"""JSON, boxes, levels, several ratings, and what a template has written already."""

from __future__ import annotations

import timeit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from vqr1.iqa.answers import (
    PUBLISHED,
    Answer,
    AnswerForm,
    BoxedAnswer,
    JsonAnswer,
    LevelAnswer,
    PlainAnswer,
    PublishedAnswer,
    RatingsAnswer,
    TaggedAnswer,
    already_written,
    form_after,
)

BARE = JsonAnswer()
INSIDE = JsonAnswer(
    tag="answer", reasoning="think", scores=("sharpness",), words=("distortion_class",)
)
BOX = BoxedAnswer()
LEVEL = LevelAnswer(stem="The quality of the image is")
FIVE = RatingsAnswer(names=("a", "b", "c", "d", "e"), reasoning="think")
FORMS: tuple[AnswerForm, ...] = (
    PUBLISHED, BARE, INSIDE, BOX, LEVEL, LevelAnswer(tag="answer"), FIVE, PlainAnswer(),
    *(PublishedAnswer(rules=name) for name in (
        "q_insight", "mr_iqa", "mr_iqa_thinking", "q_hawkeye", "refine_iqa", "preresq", "tatar",
        "zoom_iqa",
    )),
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "score", "compliant"),
    [
        ("3.42", 3.42, True),
        (" 4\n", 4.0, True),
        ("3.", 3.0, False),
        ("6.5", None, True),  # a quarter of the range beyond either end is 0 to 6
        ("3.42 of 5", None, False),
        ("<answer>3.42</answer>", None, False),
        ("", None, False),
    ],
)
def test_a_number_alone(text: str, score: float | None, compliant: bool) -> None:
    form = PlainAnswer()
    assert form.parse(text) == Answer(score, None, compliant)
    assert form.spans("  2.50 ") == {"score": (2, 6)}
    assert form.response_of("2.50") == "2.50"


@pytest.mark.parametrize(
    ("text", "score", "compliant"),
    [
        ('{"rating": 3.5}', 3.5, True),
        ('```json\n{"rating": "3.5"}\n```', 3.5, True),
        (' {"other": [1, {"rating": 5}], "rating": 2} ', 2.0, True),
        ('<think>a</think>{"rating": 3}', 3.0, False),
        ('{"rating": 3.5, "rating": 4}', None, False),
        ('{"rating": true}', None, True),
        ('{"rating": 1e0}', None, True),
        ('{"rating": "about 3"}', None, True),
        ('{"rating": 42}', None, True),
        ('{"score": 3}', None, False),
        ("{'rating': 3}", None, False),
        ('{"rating": NaN}', None, False),
        ('So {"rating": 3}', None, False),
        ('{"rating": 3} and so on', None, False),
        ("[3]", None, False),
        ("3", None, False),
        ("[" * 9000 + "]" * 9000, None, False),
        ('{"rating": ' * 4000, None, False),
    ],
)
def test_a_bare_object(text: str, score: float | None, compliant: bool) -> None:
    found = BARE.parse(text)
    assert (found.score, found.format_compliant) == (score, compliant)


def test_an_object_in_tags_with_attributes() -> None:
    text = (
        '<think>soft</think>\n<answer>{"distortion_class": "blur", "sharpness": 2, '
        '"rating": 3.5}</answer>'
    )
    attributes = {"sharpness": 2.0, "distortion_class": "blur"}
    assert INSIDE.parse(text) == Answer(3.5, "soft", True, attributes)
    spans = {name: text[first:end] for name, (first, end) in INSIDE.spans(text).items()}
    assert spans == {
        "reasoning": "soft", "distortion_class": "blur", "sharpness": "2", "rating": "3.5",
        "score": "3.5",
    }  # fmt: skip
    # A key that is missing is None, and the response is not what was asked for.
    short = '<think>soft</think><answer>{"rating": 3.5}</answer>'
    assert INSIDE.parse(short) == Answer(3.5, "soft", False, dict.fromkeys(attributes))


def test_keys_of_nested_objects() -> None:
    form = JsonAnswer(words=("reasoning.evidence", "reasoning.solution"))
    text = '{"reasoning": {"evidence": "blur", "solution": "sharpen"}, "rating": "3.21"}'
    assert form.parse(text).attributes == {
        "reasoning.evidence": "blur", "reasoning.solution": "sharpen",
    }  # fmt: skip
    spans = {name: text[first:end] for name, (first, end) in form.spans(text).items()}
    assert spans == {
        "reasoning.evidence": "blur", "reasoning.solution": "sharpen", "rating": "3.21",
        "score": "3.21",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "score", "compliant"),
    [
        (r"It is soft. \boxed{3.5}", 3.5, True),
        (r"first \boxed{1}, then \boxed{3.5/5}.", 3.5, True),
        (r"$\boxed{2}$", 2.0, True),
        (r"\boxed{2}", 2.0, False),
        (r"so \boxed{2} it is", 2.0, False),
        (r"so \boxed{\text{3}}", None, False),
        (r"so \boxed{3", None, False),
        ("so 3", None, False),
    ],
)
def test_a_box(text: str, score: float | None, compliant: bool) -> None:
    found = BOX.parse(text)
    assert (found.score, found.format_compliant) == (score, compliant)


@pytest.mark.parametrize(
    ("text", "score", "compliant"),
    [
        ("The quality of the image is good.", 4.0, True),
        ("The quality of the image is **Excellent**", 5.0, True),
        ("bad", 1.0, False),
        ("The quality of the image is not good.", None, False),
        ("The quality of the image is goodish.", None, False),
        ("The quality of the image is good or fair.", None, False),
        ("good good", None, False),
        ("", None, False),
    ],
)
def test_a_level(text: str, score: float | None, compliant: bool) -> None:
    found = LEVEL.parse(text)
    assert (found.score, found.format_compliant) == (score, compliant)


def test_five_ratings() -> None:
    text = "<think>t</think><answer>\n1\n2.5\n 3\n4\n5\n</answer>"
    # (1 + 2.5 + 3 + 4 + 5) / 5 = 3.1
    attributes = {"a": 1.0, "b": 2.5, "c": 3.0, "d": 4.0, "e": 5.0}
    assert FIVE.parse(text) == Answer(pytest.approx(3.1), "t", True, attributes)
    first, end = FIVE.spans(text)["b"]
    assert text[first:end] == "2.5"
    assert FIVE.parse(text.replace("\n5", "")).score is None
    assert FIVE.parse(text.replace("\n 3", "\nx")).attributes["c"] is None


@pytest.mark.parametrize(
    ("prompt", "written"),
    [
        ("<|im_start|>assistant\n", ""),
        ("first <think> </think> tags<|im_start|>assistant\n", ""),
        ("<|im_start|>assistant\n<think>\n", "<think>\n"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "<think>\n\n</think>\n\n"),
    ],
)
def test_what_the_template_has_written_counts(prompt: str, written: str) -> None:
    assert already_written(PUBLISHED, prompt) == written
    form = form_after(PUBLISHED, prompt)
    whole = "<think>\nsoft</think>" if written.count("think") < 2 else written
    response = whole.removeprefix(written) + "<answer>2.5</answer>"
    assert form.parse(response).format_compliant
    assert (form.parse(response).score, form.opening, form.reasons) == (2.5, "<answer>", True)
    first, end = form.spans(response)["score"]
    assert response[first:end] == "2.5"
    # Nothing is put in front for a form that asks for no reasoning.
    assert form_after(TaggedAnswer(), prompt) == TaggedAnswer()


@settings(deadline=None)
@given(
    st.text(
        alphabet='<>/{}"\\:,.[]`\n think answer rating boxed Score good 0123456789', max_size=200
    )
)
def test_no_text_raises_and_spans_are_within_it(text: str) -> None:
    for form in FORMS:
        answer = form.parse(text)
        low, high = form.score_range
        assert answer.score is None or low - (high - low) <= answer.score <= high + (high - low)
        for first, end in form.spans(text).values():
            assert 0 <= first <= end <= len(text)


@pytest.mark.parametrize("piece", [
    "<answer>", "</answer>", "<think>", "\n</think>\n", '{"rating":', "\\boxed{", "```json\n",
    "Score: ", "<answer>\n</answer>", "3 ", "\n", '"', "good ",
])  # fmt: skip
def test_time_grows_with_the_length(piece: str) -> None:
    def seconds(count: int) -> float:
        text = "<think>\nx" + piece * count
        return min(timeit.repeat(lambda: [form.parse(text) for form in FORMS], number=1, repeat=3))

    short, long = seconds(2_000), seconds(16_000)
    # Eight times the text: sixty-four times the time would be quadratic.
    assert long < 30 * short + 0.02


@pytest.mark.parametrize(
    ("kwargs", "rule"),
    [
        ({"key": "a b"}, "match pattern"),
        ({"words": ("rating",)}, "different keys"),
        ({"scale": 5}, "Unexpected"),
    ],
)
def test_arguments_are_checked(kwargs: dict[str, object], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        JsonAnswer(**kwargs)  # type: ignore[arg-type]


def test_levels_are_checked() -> None:
    with pytest.raises(ValidationError, match="capitals only"):
        LevelAnswer(levels={"good": 1.0, "Good": 2.0})
    with pytest.raises(ValidationError, match="two places"):
        LevelAnswer(stem="It is", tag="answer")
