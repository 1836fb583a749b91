"""One worker thread that owns the model, and batches made of whatever is waiting.

Images of all requests wait in one queue, in the order of their arrival. When the worker is free it
gets the first image and every other waiting one that is asked the same, `max_batch` at most. Where
fewer are waiting, the batch is held back for `max_wait_ms`. Scores do not depend on the batch
(`vqr1.inference.scorer`), so all that this changes is the time.

Everything but the call of the model happens in the event loop; nothing here needs a lock.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from vqr1.config import BatchingConfig
from vqr1.inference.result import Result
from vqr1.inference.service.measures import Measures

Task = Literal["score", "describe"]
"""What an image is asked."""

Answer = Callable[[Sequence[Sequence[Tensor]]], list[Result]]
"""Results of one batch of prompts: of each its resized images [H, W, 3]."""


@dataclass(frozen=True)
class _Waiting:
    task: Task
    pixels: Sequence[Tensor]
    result: asyncio.Future[Result]


class Batcher:
    """Queue and worker.

    Args:
        answers: who answers each task; called in the worker thread only.
        config: size of batches, and how long they are held back.
        measures: where batches and the queue are counted.
    """

    def __init__(
        self, answers: Mapping[Task, Answer], config: BatchingConfig, measures: Measures
    ) -> None:
        self._answers = answers
        self._config = config
        self._measures = measures
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._loop_task: asyncio.Task[None] | None = None
        self._seconds_per_image = 0.0

    def start(self) -> None:
        """Begin to work; call it in the event loop that submits."""
        self._loop_task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Let the batch under way end, and stop. Whatever still waits is cancelled."""
        assert self._loop_task is not None
        self._loop_task.cancel()
        await asyncio.wait([self._loop_task])
        for item in self._waiting:
            item.result.cancel()
        await asyncio.to_thread(self._worker.shutdown)

    def submit(self, task: Task, pixels: Sequence[Tensor]) -> asyncio.Future[Result]:
        """Put one image, with what it is compared with, into the queue.

        Args:
            task: what it is asked.
            pixels: the images of one prompt, [H, W, 3] uint8 as the model will see them.

        Returns:
            Its result, once there is one. Cancel it when nobody wants it any more.
        """
        item = _Waiting(task, pixels, asyncio.get_running_loop().create_future())
        self._waiting.append(item)
        self._measures.queue_length.set(len(self._waiting))
        self._arrived.set()
        return item.result

    def retry_after_s(self) -> int:
        """Whole seconds, 1 at least, after which the queue should be shorter."""
        return max(1, math.ceil(len(self._waiting) * self._seconds_per_image))

    async def _work(self) -> None:
        while True:
            batch = await self._next_batch()
            if batch:
                await self._answer(batch)

    async def _next_batch(self) -> list[_Waiting]:
        await self._arrive(until=None)
        task = self._waiting[0].task
        deadline = time.monotonic() + self._config.max_wait_ms / 1000
        while self._count(task) < self._config.max_batch:
            if not await self._arrive(until=deadline):
                break
        batch: list[_Waiting] = []
        others: deque[_Waiting] = deque()
        for item in self._waiting:
            if item.result.done():  # nobody waits for it any more
                continue
            fits = item.task == task and len(batch) < self._config.max_batch
            (batch if fits else others).append(item)
        self._waiting = others
        self._measures.queue_length.set(len(self._waiting))
        return batch

    async def _arrive(self, until: float | None) -> bool:
        """Wait for an image; with `until`, for a further one, and whether it came in time."""
        if until is None and self._waiting:
            return True
        self._arrived.clear()
        try:
            seconds = None if until is None else max(until - time.monotonic(), 0.0)
            await asyncio.wait_for(self._arrived.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _count(self, task: Task) -> int:
        return sum(item.task == task for item in self._waiting)

    async def _answer(self, batch: Sequence[_Waiting]) -> None:
        started = time.monotonic()
        pixels = [item.pixels for item in batch]
        call = asyncio.get_running_loop().run_in_executor(
            self._worker, self._answers[batch[0].task], pixels
        )
        # Waiting rather than awaiting: an error belongs to the requests, not to this loop.
        await asyncio.wait([call])
        error = call.exception()
        results = [None] * len(batch) if error is not None else call.result()
        for item, result in zip(batch, results, strict=True):
            if item.result.done():
                continue
            if result is None:
                assert error is not None
                item.result.set_exception(error)
            else:
                item.result.set_result(result)
        self._seconds_per_image = (time.monotonic() - started) / len(batch)
        self._measures.batch_size.observe(len(batch))
