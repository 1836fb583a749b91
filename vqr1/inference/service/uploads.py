"""From a request to images: multipart files or base64 in JSON, each decoded within limits.

What an image file is: `vqr1.data.images`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

from fastapi import Request
from PIL import Image
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from vqr1.counted import counted
from vqr1.data.images import decode_image
from vqr1.errors import DataError
from vqr1.inference.service.errors import RefusedError
from vqr1.inference.service.schemas import FIELD, MAX_NAME, REFERENCES, ImageBody, ImagesBody


@dataclass(frozen=True)
class Upload:
    """One image as it came in.

    Attributes:
        name: what answers and errors call it.
        file: its bytes, from the beginning.
    """

    name: str
    file: BinaryIO

    def size(self) -> int:
        """Bytes of the file, which is rewound."""
        size = self.file.seek(0, io.SEEK_END)
        self.file.seek(0)
        return size


@dataclass(frozen=True)
class Uploads:
    """The images of one request.

    Attributes:
        images: those that are asked about.
        references: what they are compared with: none, one for all, or one for each.
    """

    images: list[Upload]
    references: list[Upload]

    @property
    def every(self) -> list[Upload]:
        """All of them, the references first."""
        return [*self.references, *self.images]

    def close(self) -> None:
        """Give their memory and temporary files back."""
        for upload in self.every:
            with suppress(BufferError):  # a decoder that nobody waits for still reads it
                upload.file.close()

    @property
    def prompts(self) -> list[tuple[Upload, ...]]:
        """What each prompt shows, the reference first."""
        if not self.references:
            return [(image,) for image in self.images]
        references = self.references * (len(self.images) if len(self.references) == 1 else 1)
        return list(zip(references, self.images, strict=True))


async def read_uploads(
    request: Request, least: int, most: int, shown: int, threads: Executor
) -> Uploads:
    """The images of a request.

    Args:
        request: its body has not been read yet.
        least: fewest images.
        most: most images, references included.
        shown: images of a prompt: 2 with a reference, else 1.
        threads: where JSON is read.

    Raises:
        RefusedError: 413, 415, or 422 for a body that is not as the schema states.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        # Not `request.body()`, which would keep the bytes for as long as the request lasts.
        body = b"".join([chunk async for chunk in request.stream()])
        loop = asyncio.get_running_loop()
        images, references = await loop.run_in_executor(threads, _from_json, body)
    elif kind == "multipart/form-data":
        images, references = await _from_form(request, least, most)
    else:
        raise RefusedError(
            415, "send the images as multipart/form-data or, in base64, as application/json"
        )
    _check_references(len(images), references, shown)
    references = references or []
    total = len(images) + len(references)
    if len(images) < least or total > most:
        raise RefusedError(422, _too_many(total, least, most, with_references=bool(references)))
    return Uploads(images, references)


def _too_many(found: int | str, least: int, most: int, *, with_references: bool = False) -> str:
    """Why a request of too many images, or of too few, is refused."""
    images = counted(found, "image") if isinstance(found, int) else f"{found} images"
    references = " with their references" if with_references else ""
    return f"{images}{references}; this takes {least} to {most} of them in a request"


def _check_references(images: int, references: list[Upload] | None, shown: int) -> None:
    if shown == 1 and references is not None:
        raise RefusedError(422, f"{REFERENCES}: this asks about single images; send none")
    count = len(references or ())
    if shown > 1 and (not count or count not in (1, images)):
        raise RefusedError(
            422,
            f"{count} {REFERENCES} for {counted(images, 'image')}; this compares each image with "
            "its reference: send one for all, or one for each in their order",
        )


def decode(upload: Upload, max_pixels: int) -> Image.Image:
    """The image as 8-bit RGB.

    Args:
        upload: the image as it came in.
        max_pixels: the largest image that is decoded whole; a JPEG of more is decoded smaller.

    Raises:
        DataError: it does not decode, or is too large.
    """
    if not upload.file.read(1):
        raise DataError(f"{upload.name}: the image file is empty (0 bytes)")
    upload.file.seek(0)
    return decode_image(upload.file, upload.name, max_pixels=max_pixels)


async def _from_form(
    request: Request, least: int, most: int
) -> tuple[list[Upload], list[Upload] | None]:
    """Images and references; None where there is no such field."""
    try:
        # One file more than allowed, so that the answer can state how many came.
        form = await request.form(max_files=most + 1, max_fields=most + 1)
    except HTTPException as error:
        if str(error.detail).startswith("Too many files"):
            raise RefusedError(422, _too_many(f"more than {most}", least, most)) from error
        raise RefusedError(422, f"not a form that can be read: {error.detail}") from error
    uploads: dict[str, list[Upload]] = {FIELD: [], REFERENCES: []}
    for field, value in form.multi_items():
        if field not in uploads or not isinstance(value, UploadFile):
            raise RefusedError(
                422, f"the form's part {_clean(field)!r} is no file named {FIELD}; send files only"
            )
        name = _name(value.filename, len(uploads[field]), field)
        uploads[field].append(Upload(name, value.file))
    return uploads[FIELD], uploads[REFERENCES] or None


def _from_json(body: bytes) -> tuple[list[Upload], list[Upload] | None]:
    """Images and references; None where there is no such field."""
    try:
        sent = ImagesBody.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        message = f"{place}: {first['msg']}" if place else first["msg"]
        raise RefusedError(422, f"the JSON is not as it should be: {_clean(message)}") from error
    problems: list[str] = []
    images = _decoded(sent.images, FIELD, problems)
    references = None
    if sent.references is not None:
        references = _decoded(sent.references, REFERENCES, problems)
    if problems:
        raise RefusedError(422, "\n".join(problems))
    return images, references


def _decoded(sent: Sequence[ImageBody], field: str, problems: list[str]) -> list[Upload]:
    uploads = []
    for position, image in enumerate(sent):
        name = _name(image.name, position, field)
        try:
            content = base64.b64decode(image.data, validate=True)
        except (binascii.Error, ValueError) as error:
            problems.append(f"{name}: its data are not base64 ({error})")
            continue
        uploads.append(Upload(name, io.BytesIO(content)))
    return uploads


def _name(given: str | None, position: int, field: str = FIELD) -> str:
    kind = "image" if field == FIELD else "reference"
    return _clean(given)[:MAX_NAME] if given else f"{kind} {position + 1}"


def _clean(text: str) -> str:
    """The text on one line, and as something that UTF-8 can hold."""
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
