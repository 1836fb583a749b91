"""From a request to images: multipart files or base64 in JSON, each decoded within limits.

What an image file is: `vqr1.data.images`.
"""

from __future__ import annotations

import base64
import binascii
import io
from dataclasses import dataclass
from typing import BinaryIO

from fastapi import Request
from PIL import Image
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from vqr1.data.images import decode_image
from vqr1.errors import DataError
from vqr1.inference.service.errors import RefusedError
from vqr1.inference.service.schemas import FIELD, MAX_NAME, ImagesBody


@dataclass(frozen=True)
class Upload:
    """One image as it came in.

    Attributes:
        name: what answers and errors call it.
        file: its bytes, from the beginning.
    """

    name: str
    file: BinaryIO


async def read_uploads(request: Request, least: int, most: int) -> list[Upload]:
    """The images of a request.

    Args:
        request: its body has not been read yet.
        least: fewest images.
        most: most images.

    Raises:
        RefusedError: 413, 415, or 422 for a body that is not as the schema states.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        uploads = _from_json(await request.body())
    elif kind == "multipart/form-data":
        uploads = await _from_form(request, most)
    else:
        raise RefusedError(
            415, "send the images as multipart/form-data or, in base64, as application/json"
        )
    if not least <= len(uploads) <= most:
        raise RefusedError(422, f"{len(uploads)} images; this takes {least} to {most} of them")
    return uploads


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


async def _from_form(request: Request, most: int) -> list[Upload]:
    try:
        # One file more than allowed, so that the answer can state how many came.
        form = await request.form(max_files=most + 1, max_fields=most + 1)
    except HTTPException as error:
        raise RefusedError(422, f"not a form that can be read: {error.detail}") from error
    uploads: list[Upload] = []
    for field, value in form.multi_items():
        if field != FIELD or not isinstance(value, UploadFile):
            raise RefusedError(
                422, f"the form's part {_clean(field)!r} is no file named {FIELD}; send files only"
            )
        uploads.append(Upload(_name(value.filename, len(uploads)), value.file))
    return uploads


def _from_json(body: bytes) -> list[Upload]:
    try:
        images = ImagesBody.model_validate_json(body).images
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        message = f"{place}: {first['msg']}" if place else first["msg"]
        raise RefusedError(422, f"the JSON is not as it should be: {_clean(message)}") from error
    uploads = []
    problems = []
    for position, image in enumerate(images):
        name = _name(image.name, position)
        try:
            content = base64.b64decode(image.data, validate=True)
        except (binascii.Error, ValueError) as error:
            problems.append(f"{name}: its data are not base64 ({error})")
            continue
        uploads.append(Upload(name, io.BytesIO(content)))
    if problems:
        raise RefusedError(422, "\n".join(problems))
    return uploads


def _name(given: str | None, position: int) -> str:
    return _clean(given)[:MAX_NAME] if given else f"image {position + 1}"


def _clean(text: str) -> str:
    """The text on one line, and as something that UTF-8 can hold."""
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
