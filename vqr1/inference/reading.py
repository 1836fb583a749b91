"""Reading the images of prompts: decoded, resized, several at once and a batch ahead.

Files are read by as many threads as PyTorch computes with (`hardware.threads`), which Pillow lets
run side by side, and those of the next batch while the model is busy with this one. With one
thread everything happens in order, in the caller's.

Not here: what an image may be (`images.py`), what is computed of it (`scorer.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from PIL import Image
from torch import Tensor

from vqr1.data.images import decoded_at
from vqr1.errors import DataError
from vqr1.inference.images import (
    ImageGroup,
    ImageSource,
    decoded_sizes,
    is_file,
    members,
    name_of,
    open_image,
)

Opened = tuple[Tensor, str | None]
"""[H, W, 3] uint8 pixels that the model sees, and at which size the file was decoded."""


@dataclass(frozen=True)
class ReadGroup:
    """The images of one prompt.

    Attributes:
        name: see `name_of`.
        pixels: [H, W, 3] uint8 of each, as the model sees it; empty after an error.
        decoded_at: see `Result.decoded_at`.
        error: why one of them cannot be read; None where all could.
        key: digest of the pixels.
    """

    name: str | None
    pixels: tuple[Tensor, ...] = ()
    decoded_at: str | None = None
    error: str | None = None
    key: bytes = b""


class ImageReader:
    """Reads images batch by batch.

    Args:
        resize: gives the pixels that the model sees; safe in any thread.
        batch_size: prompts of a batch.
        at_once: the next batch may be asked for before this one is done with.
    """

    def __init__(
        self, resize: Callable[[Image.Image], Tensor], batch_size: int, *, at_once: bool
    ) -> None:
        self._resize, self._batch_size, self._at_once = resize, batch_size, at_once
        threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(threads, "read") if threads > 1 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def batches(self, groups: Iterable[ImageGroup]) -> Iterator[list[ReadGroup]]:
        """The batches in order.

        Raises:
            DataError: an array or tensor that is no image; what is wrong with a file is in its
                group's `error`.
        """
        rest = iter(groups)
        ahead = self._pool is not None and self._at_once
        begun = self._begin(rest)
        while begun:
            following = self._begin(rest) if ahead else []
            yield [finish() for finish in begun]
            begun = following or self._begin(rest)

    def _begin(self, rest: Iterator[ImageGroup]) -> list[Callable[[], ReadGroup]]:
        """Have the next batch read; what waits for each of its groups."""
        known: dict[int, Callable[[], Opened]] = {}
        begun: list[Callable[[], ReadGroup]] = []
        for group in islice(rest, self._batch_size):
            images = members(group)
            for one in images:
                # An image of several prompts, such as a reference, is read once.
                if id(one) not in known:
                    known[id(one)] = self._opened(one)
            begun.append(partial(_finished, group, [(one, known[id(one)]) for one in images]))
        return begun

    def _opened(self, image: ImageSource) -> Callable[[], Opened]:
        if self._pool is not None and isinstance(image, str | Path):
            future: Future[Opened] = self._pool.submit(self._open, image)
            return future.result
        return cache(partial(self._open, image))

    def _open(self, image: ImageSource) -> Opened:
        opened = open_image(image)
        return self._resize(opened), decoded_at(opened)


def _finished(
    group: ImageGroup, parts: Sequence[tuple[ImageSource, Callable[[], Opened]]]
) -> ReadGroup:
    shown: list[Opened] = []
    for image, opened in parts:
        try:
            shown.append(opened())
        except DataError as error:
            if not is_file(image):
                raise
            return ReadGroup(name_of(group), error=str(error))
    pixels = tuple(one for one, _ in shown)
    sizes = decoded_sizes([size for _, size in shown])
    return ReadGroup(name_of(group), pixels, sizes, key=content_key(pixels))


def content_key(images: Sequence[Tensor]) -> bytes:
    """Digest of the resized images [H, W, 3] uint8 of one prompt."""
    digest = hashlib.sha256()
    for pixels in images:
        digest.update(repr(tuple(pixels.shape)).encode())
        digest.update(pixels.contiguous().numpy().data)
    return digest.digest()
