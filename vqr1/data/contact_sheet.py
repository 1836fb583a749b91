"""A contact sheet of a labelled set, worst image first: shows whether the labels point right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps

_TILE = 192
_CAPTION = 34
_GAP = 6
_BACKGROUND, _INK, _FAINT = (250, 250, 250), (20, 20, 20), (110, 110, 110)


@dataclass(frozen=True)
class Tile:
    """One image of the sheet.

    Attributes:
        image: RGB, any size; None draws an empty frame (the image does not decode).
        caption: its first line: the score.
        detail: its second line: the file name, shortened to fit.
    """

    image: Image.Image | None
    caption: str
    detail: str


def spaced_positions(total: int, count: int) -> list[int]:
    """At most `count` positions from 0 to total - 1, evenly spaced, first and last included."""
    if count >= total:
        return list(range(total))
    if count == 1:
        return [0]
    return [round(i * (total - 1) / (count - 1)) for i in range(count)]


def contact_sheet(title: str, tiles: Sequence[Tile], columns: int = 8) -> Image.Image:
    """Draw tiles row by row under a title.

    Args:
        title: text at the top.
        tiles: in the order of the sheet.
        columns: tiles in a row.
    """
    rows = -(-len(tiles) // columns)
    pitch_x, pitch_y = _TILE + _GAP, _TILE + _CAPTION + _GAP
    top = 40
    sheet = Image.new("RGB", (columns * pitch_x + _GAP, top + rows * pitch_y + _GAP), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, 10), title, fill=_INK, font=ImageFont.load_default(18))
    for number, tile in enumerate(tiles):
        x = _GAP + number % columns * pitch_x
        y = top + number // columns * pitch_y
        _draw_tile(sheet, draw, tile, x, y)
    return sheet


def _draw_tile(sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, x: int, y: int) -> None:
    if tile.image is None:
        draw.rectangle((x, y, x + _TILE - 1, y + _TILE - 1), outline=_FAINT)
        draw.text((x + 10, y + 10), "does not decode", fill=_FAINT)
    else:
        thumbnail = ImageOps.contain(tile.image, (_TILE, _TILE), Image.Resampling.BICUBIC)
        offset = ((_TILE - thumbnail.width) // 2, (_TILE - thumbnail.height) // 2)
        sheet.paste(thumbnail, (x + offset[0], y + offset[1]))
    draw.text((x, y + _TILE + 2), tile.caption, fill=_INK, font=ImageFont.load_default(15))
    small = ImageFont.load_default(11)
    detail = tile.detail
    while draw.textlength(detail, font=small) > _TILE and len(detail) > 4:
        detail = f"...{detail[4:]}"
    draw.text((x, y + _TILE + 20), detail, fill=_FAINT, font=small)
