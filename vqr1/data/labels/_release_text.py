"""The text form in which the VisualQuality-R1 release ships test labels: reference, image, MOS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath

from vqr1.data.labels._format import LabelRow, LabelSource
from vqr1.data.labels._reading import number, text_rows
from vqr1.errors import DataError


def parser(file_name: str, method_in_name: bool = False) -> Callable[[LabelSource], list[LabelRow]]:
    """A parser of one such file.

    Args:
        file_name: the file's name in the release.
        method_in_name: the image's name is the reference's and then, after the last underscore,
            the method that made it.
    """

    def parse(source: LabelSource) -> list[LabelRow]:
        return [
            LabelRow(
                image=image,
                mos=number(score, where, "MOS"),
                where=where,
                reference=reference,
                distortion=_method(image, where) if method_in_name else None,
            )
            for where, (reference, image, score) in text_rows(source.main_file(file_name), 3)
        ]

    return parse


def _method(image: str, where: str) -> str:
    _, mark, method = PurePosixPath(image).stem.rpartition("_")
    if not mark:
        raise DataError(f"{where}: {image!r} names no method; it must end in _METHOD")
    return method
