"""What decodes: bounded in bytes, clients in turn, slow images apart.

An image is looked at first, by its header: what it will take decides where it is decoded. Images of
many pixels, or in formats that take long, are decoded by processes of low priority, so that they
delay no small ones: several of Pillow's decoders keep Python's lock. They resize them too, where
that changes no pixel: what comes back is small, and takes no time here.

Not here: what an image is (`vqr1.data.images`), reading requests (`uploads.py`).
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from PIL import Image, JpegImagePlugin

from vqr1.config import LimitsConfig
from vqr1.data.images import decode_image, image_formats, jpeg_scans
from vqr1.distributed.parents import end_with_parent
from vqr1.errors import DataError
from vqr1.inference.service.fairness import FairQueue

if TYPE_CHECKING:
    # It imports PyTorch, which the processes that decode do without.
    from vqr1.data.prompts import ResizeRule

T = TypeVar("T")

Sizes = Mapping[tuple[int, int], tuple[int, int]]
"""(width, height) that images of a (width, height) are resized to."""

BYTES_PER_PIXEL = 20
"""Most that is held of an image while it is decoded: five copies of 4 bytes where it is laid on
white (Pillow has RGB as 4 bytes)."""

QUICK_PIXELS = 4_000_000
"""Images up to here, weighted by their format, are decoded at the usual priority."""

SLOW_FORMATS: Mapping[str, float] = {"AVIF": 4, "HEIF": 4, "JPEG2000": 16, "WEBP": 4}
"""Time for a pixel of formats in that of a JPEG's or PNG's."""

QUICK_SCANS = 5
"""Scans of a JPEG that take about as long as an image of one (a progressive one has ten)."""

_NICE = 15


@dataclass(frozen=True)
class Cost:
    """What decoding an image takes.

    Attributes:
        bytes: most memory.
        slow: whether it belongs to the processes of low priority.
        size: width and height by the header; None where there is none.
    """

    bytes: int
    slow: bool
    size: tuple[int, int] | None = None


def cost_of(file: BinaryIO, name: str, max_pixels: int) -> Cost:
    """The cost of an image by its header; none of what has no header, and will be refused.

    Args:
        file: the image, which is rewound.
        name: what errors call it.
        max_pixels: the largest image that is decoded whole.

    Raises:
        DataError: a JPEG of too many scans.
    """
    try:
        with Image.open(file, formats=image_formats()) as image:
            width, height = image.size
            jpeg = isinstance(image, JpegImagePlugin.JpegImageFile)
            weight = SLOW_FORMATS.get(image.format or "", 1)
            if image.info.get("interlace"):
                weight *= 2
    except Image.DecompressionBombError:
        return Cost(2 * max_pixels * BYTES_PER_PIXEL, slow=True)
    except (OSError, ValueError, SyntaxError):
        return Cost(0, slow=False)
    finally:
        file.seek(0)
    if jpeg:
        weight = max(1, jpeg_scans(file.read(), name) / QUICK_SCANS)
        file.seek(0)
    # A larger JPEG is decoded smaller: its coefficients, 6 bytes, are no more than 4 times as many.
    pixels = min(width * height, 2 * max_pixels)
    slow = weight * width * height > QUICK_PIXELS
    return Cost(pixels * BYTES_PER_PIXEL, slow, (width, height))


@dataclass(frozen=True)
class _Waiting:
    cost: Cost
    decode: Callable[[], Any]
    result: asyncio.Future[Any]


class _Lane:
    """A queue and the threads that serve it."""

    def __init__(self, threads: int, name: str) -> None:
        self.free = threads
        self.queue: FairQueue[_Waiting] = FairQueue()
        self.threads = ThreadPoolExecutor(threads, name)


class Decoders:
    """Decodes images of all requests.

    Args:
        limits: threads and bytes.

    Attributes:
        small: threads for what is short: headers, JSON, comparisons.
        stopping: whether the service stops: what is left is decoded at the usual priority then.
    """

    def __init__(self, limits: LimitsConfig) -> None:
        self._most_bytes = limits.decode_bytes
        self._bytes = 0
        self._quick = _Lane(limits.decode_threads, "decode")
        self._slow = _Lane(limits.decode_threads, "decode-slow")
        self._next: tuple[_Lane, _Waiting] | None = None
        self.small = ThreadPoolExecutor(limits.decode_threads, "read")
        self.stopping = False
        self._count = limits.decode_threads
        self._turn = threading.Lock()
        self._processes: ProcessPoolExecutor | None = None

    def apart(
        self, content: bytes, name: str, max_pixels: int, smaller: Sizes | None = None
    ) -> Image.Image:
        """An image that another process decodes; called in one of the threads.

        Args:
            content: the image's file.
            name: what errors call it.
            max_pixels: the largest image that is decoded whole.
            smaller: what that process resizes it to, so that fewer pixels are handed over.

        Raises:
            DataError: it does not decode, or is too large; or its decoder crashed twice.
        """
        if self.stopping:
            return _decoded(content, name, max_pixels, {})
        decode = partial(_decoded, content, name, max_pixels, smaller or {})
        with self._turn:
            if self._processes is None:
                self._processes = _processes(self._count)
            processes = self._processes
        try:
            return processes.submit(decode).result()
        except BrokenProcessPool:
            with self._turn:
                if self._processes is processes:
                    self._processes = None
        # Another image may have ended the process: once more, where there is no other.
        try:
            with _processes(1) as own:
                return own.submit(decode).result()
        except BrokenProcessPool as error:
            raise DataError(f"{name}: the image does not decode (its decoder crashed)") from error

    async def run(self, client: str, cost: Cost, decode: Callable[[], T]) -> T:
        """What `decode` returns in a thread; it is not begun once nobody waits for it."""
        lane = self._slow if cost.slow else self._quick
        item = _Waiting(cost, decode, asyncio.get_running_loop().create_future())
        lane.queue.put(client, item)
        self._start()
        result: T = await item.result
        return result

    async def stop(self) -> None:
        """Wait for what runs."""
        for threads in (self.small, self._quick.threads, self._slow.threads):
            await asyncio.to_thread(threads.shutdown)
        if self._processes is not None:
            await asyncio.to_thread(self._processes.shutdown)

    def _start(self) -> None:
        """Begin whatever has a thread and room.

        What had no room in its turn is begun before anything else: small images that keep coming
        would take the room from it for ever.
        """
        if self._next is not None:
            lane, item = self._next
            if not item.result.done():
                if not self._has_room(item):
                    return
                self._begin(lane, item)
            self._next = None
        for lane in (self._quick, self._slow):
            lane.queue.drop(lambda item: item.result.done())
            while lane.free and (taken := lane.queue.take(1)):
                if not self._has_room(taken[0]):
                    self._next = lane, taken[0]
                    return
                self._begin(lane, taken[0])

    def _has_room(self, item: _Waiting) -> bool:
        return self._bytes == 0 or self._bytes + item.cost.bytes <= self._most_bytes

    def _begin(self, lane: _Lane, item: _Waiting) -> None:
        lane.free -= 1
        self._bytes += item.cost.bytes
        call = asyncio.get_running_loop().run_in_executor(lane.threads, item.decode)

        def end(done: asyncio.Future[Any]) -> None:
            lane.free += 1
            self._bytes -= item.cost.bytes
            error = done.exception()
            if not item.result.done():
                if error is None:
                    item.result.set_result(done.result())
                else:
                    item.result.set_exception(error)
            self._start()

        call.add_done_callback(end)


def sizes_apart(rule: ResizeRule, size: tuple[int, int]) -> Sizes:
    """What an image of a size may be resized to where it is decoded, upright or lying.

    Raises:
        DataError: the rule does not admit an image of that shape.
    """
    both = (size, size[::-1])
    return {one: small for one in both if (small := rule.pillow_size(*one)) is not None}


def _decoded(content: bytes, name: str, max_pixels: int, smaller: Sizes) -> Image.Image:
    """In a process of low priority, as a rule."""
    image = decode_image(io.BytesIO(content), name, max_pixels=max_pixels)
    size = smaller.get(image.size)
    return image if size is None else image.resize(size, Image.Resampling.BICUBIC)


def _processes(count: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(count, get_context("spawn"), _begin_process)


def _begin_process() -> None:
    """Make way for the service, end with it, and leave Ctrl-C to it."""
    os.nice(_NICE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("vqr1.data.images").setLevel(logging.ERROR)  # the answer states it
    end_with_parent()
