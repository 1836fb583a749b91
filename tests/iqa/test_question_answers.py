"""What answers to questions state, by hand; intervals against SciPy."""

from __future__ import annotations

import math
import timeit

import pytest
from scipy import stats

from vqr1.iqa.proportions import mean_interval, wilson_interval
from vqr1.iqa.question_answers import (
    f1_of_sets,
    f1_of_words,
    named_distortions,
    stated_distortions,
    stated_option,
    word_count,
)

OPTIONS = ("Blurry", "Sharp", "Very sharp")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("B", 1),
        ("b", 1),
        (" (B) ", 1),
        ("B.", 1),
        ("B)", 1),
        ("**B**", 1),
        ("Sharp", 1),
        ("sharp.", 1),
        ("B. Sharp", 1),
        ("B: sharp.", 1),
        ("(C) Very sharp", 2),
        ("Answer: C", 2),
        ("The answer is C.", 2),
        ("The correct option is: Very sharp", 2),
        ("<think>A or B?</think><answer>A</answer>", 0),
        ("<answer>A</answer> no: <answer>B</answer>", 1),
        ("<think>A</think>\nC", 2),
        # No option, or not one alone.
        ("B. Blurry", None),
        ("A and B", None),
        ("A or B", None),
        ("D", None),
        ("The image is blurry.", None),
        ("It is A, since edges are soft", None),
        ("not sharp", None),
        ("<answer>A", None),
        ("", None),
        ("3.5", None),
        ("A" + " " * 400, 0),
        ("Sharp, " * 100, None),
    ],
)
def test_options(text: str, number: int | None) -> None:
    assert stated_option(text, OPTIONS) == number


def test_images_are_options() -> None:
    pair = ("Image A", "Image B")
    found = [
        stated_option(text, pair) for text in ("Image B", "B", "image a.", "Image C", "Similar")
    ]
    assert found == [1, 1, 0, None, None]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Noise", {"noise"}),
        ("Noise and blur", {"noise", "blur"}),
        ("noise, Color quantization, and blur.", {"noise", "blur", "color quantization"}),
        ("Answer: Overly high brightness", {"overly high brightness"}),
        ("None", set()),
        ("None and noise", None),
        ("Rain", None),
        ("Noise and rain", None),
        ("There is noise", None),
        ("", None),
    ],
)
def test_lists_of_distortions(text: str, names: set[str] | None) -> None:
    assert stated_distortions(text) == names


def test_descriptions_by_hand() -> None:
    text = "The photo is slightly blurry and grainy; it is under-exposed, yet not over-exposed."
    assert named_distortions(text) == {"blur", "noise", "darkness", "brightness"}
    assert named_distortions("A sharp, clean image.") == frozenset()
    # 1 of 2 named and 1 of 3 there: 2 * 1 / (2 + 3).
    one, three = frozenset(("blur", "noise")), frozenset(("blur", "banding", "compression"))
    assert f1_of_sets(one, three) == pytest.approx(0.4)
    assert f1_of_sets(frozenset(), frozenset()) == 1.0
    assert f1_of_sets(one, frozenset()) == 0.0
    # photo blurry blurry, of 3, with blurry photo dark dark, of 4: photo and one blurry; 4 / 7.
    assert f1_of_words("the Photo: blurry, blurry", "a blurry photo, dark dark") == 4 / 7
    assert f1_of_words("", "x") == 0.0
    assert word_count("The photo is under-exposed.") == 5


@pytest.mark.parametrize(("successes", "count"), [(0, 7), (3, 7), (7, 7), (412, 1495)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_is_scipys(successes: int, count: int, level: float) -> None:
    expected = stats.binomtest(successes, count).proportion_ci(level, method="wilson")
    found = wilson_interval(successes, count, level)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_means_by_the_bootstrap() -> None:
    values = [0.0] * 30 + [1.0] * 70
    found = mean_interval(values, draws=4000)
    # A share of .7 of 100: its normal interval is .7 -+ 1.96 sqrt(.21 / 100) = .610 to .790.
    assert (found.low, found.high) == pytest.approx((0.610, 0.790), abs=0.02)
    assert math.isnan(mean_interval([], draws=10).low)
    assert mean_interval(values, draws=0).reason == "no bootstrap draws asked for"
    assert wilson_interval(0, 0).reason == "no item"


def test_time_is_linear() -> None:
    for text in ("<answer>" * 20_000, "a " * 100_000, "Answer: " * 20_000, "(" * 100_000):
        took = timeit.timeit(
            lambda t=text: (stated_option(t, OPTIONS), stated_distortions(t)), number=1
        )
        assert took < 1.0
    assert timeit.timeit(lambda: named_distortions("lack of " * 20_000), number=1) < 1.0
