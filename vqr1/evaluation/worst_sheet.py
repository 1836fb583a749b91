"""The images that a model misjudges most, with what it answered about them.

What it does: takes the images with the largest |MOS - fitted score| and gives each beside
its MOS, its predicted score and the reasoning of the answer that lies nearest to the
image's score: drawn on a sheet, and as records with thumbnails for the report's page.

Not here: choosing the fit (`vqr1.evaluation.set_metrics`).
"""

from __future__ import annotations

import base64
import io
import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vqr1.errors import DataError
from vqr1.evaluation.predictions import Predictions, ScoreRule
from vqr1.evaluation.summary import scored_rows
from vqr1.iqa.answers import PUBLISHED
from vqr1.iqa.logistic import LogisticFit

_IMAGE = 200
_TEXT = 330
_GAP = 12
_TOP = 58
_LINES = 9
"""Of an image's reasoning that are shown."""
_BACKGROUND, _INK, _FAINT, _RED = (250, 250, 250), (20, 20, 20), (110, 110, 110), (176, 48, 24)


@dataclass(frozen=True)
class WorstImage:
    """One image of the sheet.

    Attributes:
        image: name.
        row: its row in the data set's table.
        mos: MOS.
        score: predicted score.
        fitted: predicted score on the MOS scale.
        reasoning: what the model answered; the whole answer where it gave no reasoning, and nothing
            where that is a tag only.
    """

    image: str
    row: int
    mos: float
    score: float
    fitted: float
    reasoning: str

    @property
    def error(self) -> float:
        """Fitted minus MOS: positive where the model is too kind."""
        return self.fitted - self.mos


def worst_images(
    predictions: Predictions, fit: LogisticFit, count: int, rule: ScoreRule = "valid_mean"
) -> list[WorstImage]:
    """The `count` images with the largest error after the fit, worst first.

    Args:
        predictions: rows of one set.
        fit: the logistic map of that set.
        count: how many.
        rule: which images have a score.
    """
    scored, scores = scored_rows(predictions, rule)
    fitted = fit(scores)
    order = np.argsort(-np.abs(fitted - scored.mos), kind="stable")[:count]
    return [
        WorstImage(
            scored.images[i],
            int(scored.index[i]),
            float(scored.mos[i]),
            float(scores[i]),
            float(fitted[i]),
            _reasoning(scored, int(i), float(scores[i])),
        )
        for i in order
    ]


def _reasoning(scored: Predictions, i: int, score: float) -> str:
    distance = np.where(scored.valid[i], np.abs(scored.scores[i] - score), np.inf)
    text = scored.texts[i][int(distance.argmin())]
    reasoning = (PUBLISHED.parse(text).reasoning or text).strip()
    return "" if re.fullmatch(r"<\w+>", reasoning) else reasoning


def worst_json(
    worst: Sequence[WorstImage], dataset: str, load: Callable[[int], Image.Image]
) -> str:
    """The worst images as JSON records, each with a thumbnail as data URI.

    Args:
        worst: worst first.
        dataset: their data set.
        load: RGB image of a row of its table; of one that raises a DataError there is no thumbnail.
    """
    records = [
        {
            "dataset": dataset,
            "image": item.image,
            "mos": item.mos,
            "score": item.score,
            "fitted": item.fitted,
            "reasoning": item.reasoning,
            "thumbnail": _thumbnail(item.row, load),
        }
        for item in worst
    ]
    return json.dumps(records, indent=1) + "\n"


def _thumbnail(row: int, load: Callable[[int], Image.Image]) -> str | None:
    try:
        image = load(row)
    except DataError:
        return None
    stream = io.BytesIO()
    shown_size(image).save(stream, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def shown_size(image: Image.Image) -> Image.Image:
    """An image as large as it is shown."""
    scale = min(_IMAGE / image.width, _IMAGE / image.height)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def worst_sheet(
    worst: list[WorstImage],
    title: str,
    caption: str,
    load: Callable[[int], Image.Image],
    columns: int = 3,
) -> Image.Image:
    """Draw the worst images with scores and reasoning.

    Args:
        worst: what to show, worst first.
        title: first line.
        caption: second line.
        load: RGB image of a row of the data set's table; a DataError draws an empty frame.
        columns: images side by side.
    """
    pitch_x, pitch_y = _IMAGE + _TEXT + 2 * _GAP, _IMAGE + _GAP
    rows = -(-len(worst) // columns)
    size = (columns * pitch_x + _GAP, _TOP + rows * pitch_y + _GAP)
    sheet = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, 8), title, fill=_INK, font=ImageFont.load_default(18))
    draw.text((_GAP, 34), _shortened(draw, caption, size[0] - 2 * _GAP), fill=_FAINT, font=_small())
    for number, item in enumerate(worst):
        x = _GAP + number % columns * pitch_x
        y = _TOP + number // columns * pitch_y
        _draw_image(sheet, draw, item, load, x, y)
        _draw_words(draw, item, x + _IMAGE + _GAP, y)
    return sheet


def _draw_image(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    item: WorstImage,
    load: Callable[[int], Image.Image],
    x: int,
    y: int,
) -> None:
    try:
        image = load(item.row)
    except DataError:
        draw.rectangle((x, y, x + _IMAGE - 1, y + _IMAGE - 1), outline=_FAINT)
        draw.text((x + 10, y + 10), "not readable", fill=_FAINT, font=_small())
        return
    shown = shown_size(image)
    sheet.paste(shown, (x + (_IMAGE - shown.width) // 2, y + (_IMAGE - shown.height) // 2))


def _draw_words(draw: ImageDraw.ImageDraw, item: WorstImage, x: int, y: int) -> None:
    direction = "too kind" if item.error > 0 else "too harsh"
    draw.text(
        (x, y),
        f"MOS {item.mos:.2f}, fitted {item.fitted:.2f} (score {item.score:.2f})",
        fill=_INK,
        font=ImageFont.load_default(14),
    )
    draw.text(
        (x, y + 19),
        f"{direction} by {abs(item.error):.2f}",
        fill=_RED,
        font=ImageFont.load_default(14),
    )
    draw.text((x, y + 40), _shortened(draw, item.image, _TEXT), fill=_FAINT, font=_small())
    for number, line in enumerate(islice(_wrapped(draw, item.reasoning, _TEXT), _LINES)):
        draw.text((x, y + 60 + 15 * number), line, fill=_INK, font=_small())


def _small() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(12)


def _fitting(draw: ImageDraw.ImageDraw, text: str, width: float) -> int:
    """How many of the first characters are no wider than `width` pixels together.

    At most one a pixel: an answer of a megabyte costs no more than what is shown of it.
    """
    lengths = range(1, min(len(text), int(width)) + 1)
    return bisect_right(lengths, width, key=lambda n: draw.textlength(text[:n], font=_small()))


def _shortened(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """One line no wider than `width` pixels, with dots at its end where text is missing."""
    text = " ".join(text.splitlines())
    if _fitting(draw, text, width) == len(text):
        return text
    room = width - draw.textlength("...", font=_small())
    return f"{text[: _fitting(draw, text, room)]}..."


def _wrapped(draw: ImageDraw.ImageDraw, text: str, width: int) -> Iterator[str]:
    """Lines no wider than `width` pixels; a wider word is broken over several."""
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if _fitting(draw, longer, width) == len(longer):
            line = longer
            continue
        if line:
            yield line
        line = word
        while (count := max(1, _fitting(draw, line, width))) < len(line):
            yield line[:count]
            line = line[count:]
    if line:
        yield line
