"""The words beside the worst images, whatever a model answered."""

from __future__ import annotations

from itertools import islice, pairwise
from typing import Any

import pytest
from PIL import Image, ImageDraw

from vqr1.evaluation import worst_sheet as module
from vqr1.evaluation.worst_sheet import WorstImage, worst_sheet

WIDTH = 330


@pytest.fixture
def draw() -> ImageDraw.ImageDraw:
    return ImageDraw.Draw(Image.new("RGB", (10, 10)))


def width(draw: ImageDraw.ImageDraw, text: str) -> float:
    return draw.textlength(text, font=module._small())


@pytest.mark.parametrize(
    "text", ["word " * 200, "x" * 500, "a " + "longword" * 90 + " end", "画质很差" * 60, "", " \n "]
)
def test_no_text_is_lost_between_lines(draw: ImageDraw.ImageDraw, text: str) -> None:
    lines = list(module._wrapped(draw, text, WIDTH))
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(line and width(draw, line) <= WIDTH for line in lines)
    # Each line but the last is full: the next character, or word, would not have fitted.
    for line, following in pairwise(lines):
        assert width(draw, f"{line} {following}") > WIDTH


def test_a_shortened_line_is_as_long_as_it_can_be(draw: ImageDraw.ImageDraw) -> None:
    assert module._shortened(draw, "short", WIDTH) == "short"
    # Pillow measures no text of two lines.
    assert module._shortened(draw, "two\nlines", WIDTH) == "two lines"
    text = "".join(chr(97 + n % 26) for n in range(400))
    found = module._shortened(draw, text, WIDTH)
    kept = len(found) - 3
    assert found == f"{text[:kept]}..."
    assert width(draw, found) <= WIDTH < width(draw, f"{text[: kept + 2]}...")


def test_a_long_answer_costs_what_is_shown_of_it(
    draw: ImageDraw.ImageDraw, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []
    plain = ImageDraw.ImageDraw.textlength

    def counted(self: ImageDraw.ImageDraw, text: str, **options: Any) -> float:
        measured.append(len(text))
        return plain(self, text, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "textlength", counted)
    for text in ("x" * 100_000, "many words " * 10_000):
        lines = list(islice(module._wrapped(draw, text, WIDTH), module._LINES))
        assert len(lines) == module._LINES
    item = WorstImage("n" * 100_000, 0, 1.0, 2.0, 3.0, "x" * 100_000)
    worst_sheet([item], "title", "c" * 100_000, lambda row: Image.new("RGB", (40, 90)))
    # Characters that were measured: some hundred for each of a few lines, some ten times.
    assert sum(measured) < 300_000
