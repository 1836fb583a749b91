"""One worker thread that owns the model, and batches made of whatever is waiting.

Images of all requests wait in one queue, in which clients take turns. When the worker is free it
gets the first image and every other waiting one that is asked the same, `max_batch` at most. Where
fewer are waiting, the batch is held back for `max_wait_ms`. Scores do not depend on the batch
(`vqr1.inference.scorer`), so all that this changes is the time.

An image whose request has ended (answered late, its client gone, its place given to another) is not
computed; a batch that is being computed ends at its next token once all of its requests have
(`vqr1.rollout.abandoned`).

Everything but the call of the model happens in the event loop; nothing here needs a lock.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

from torch import Tensor

from vqr1.config import BatchingConfig
from vqr1.errors import NonFiniteError
from vqr1.inference.result import Result
from vqr1.inference.service.fairness import FairQueue
from vqr1.inference.service.measures import Measures
from vqr1.rollout.abandoned import AbandonedError, abandoning

Task = Literal["score", "describe"]
"""What an image is asked."""

Answer = Callable[[Sequence[Sequence[Tensor]]], list[Result]]
"""Results of one batch of prompts: of each its resized images [H, W, 3]."""


T = TypeVar("T")


@dataclass(frozen=True)
class _Waiting:
    answer: Answer
    pixels: Sequence[Tensor]
    result: asyncio.Future[Result]


class Batcher:
    """Queue and worker.

    Args:
        config: size of batches, and how long they are held back.
        measures: where batches and the queue are counted.
    """

    def __init__(self, config: BatchingConfig, measures: Measures) -> None:
        self._config = config
        self._measures = measures
        self._waiting: FairQueue[_Waiting] = FairQueue()
        self._arrived = asyncio.Event()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._loop_task: asyncio.Task[None] | None = None
        self._seconds_per_image = 0.0
        self._since: float | None = None

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

    def submit(
        self, client: str, answer: Answer, pixels: Sequence[Tensor]
    ) -> asyncio.Future[Result]:
        """Put one image, with what it is compared with, into the queue.

        Args:
            client: whose turn it takes.
            answer: who answers, with others that are asked the same; called in the worker thread.
            pixels: the images of one prompt, [H, W, 3] uint8 as the model will see them.

        Returns:
            Its result, once there is one. Cancel it when nobody wants it any more.
        """
        item = _Waiting(answer, pixels, asyncio.get_running_loop().create_future())
        self._waiting.put(client, item)
        self._measures.queue_length.set(len(self._waiting))
        self._arrived.set()
        return item.result

    async def between_batches(self, work: Callable[[], T]) -> T:
        """What `work` returns in the worker thread, while no batch is computed."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    def busy_s(self) -> float:
        """Seconds that the batch under way has taken so far; 0 where there is none."""
        return 0.0 if self._since is None else time.monotonic() - self._since

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
        answer = self._waiting.first().answer
        deadline = time.monotonic() + self._config.max_wait_ms / 1000
        while sum(item.answer == answer for item in self._waiting) < self._config.max_batch:
            if not await self._arrive(until=deadline):
                break
        self._waiting.drop(lambda item: item.result.done())  # nobody waits for it any more
        batch = self._waiting.take(self._config.max_batch, lambda item: item.answer == answer)
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

    async def _answer(self, batch: Sequence[_Waiting]) -> None:
        started = self._since = time.monotonic()
        call = asyncio.get_running_loop().run_in_executor(self._worker, _computed, batch)
        # Waiting rather than awaiting: an error belongs to the requests, not to this loop.
        await asyncio.wait([call])
        self._since = None
        error = call.exception()
        results = call.result() if error is None else [error] * len(batch)
        for item, result in zip(batch, results, strict=True):
            if item.result.done():
                continue
            if isinstance(result, BaseException):
                item.result.set_exception(result)
            else:
                item.result.set_result(result)
        if isinstance(error, AbandonedError):
            self._measures.abandoned.inc()
            return
        self._seconds_per_image = (time.monotonic() - started) / len(batch)
        self._measures.batch_size.observe(len(batch))


def _computed(batch: Sequence[_Waiting]) -> Sequence[Result | BaseException]:
    """In the worker thread; ends early with `AbandonedError` once nobody waits."""
    with abandoning(lambda: all(item.result.done() for item in batch)):
        return _answered(batch)


def _answered(batch: Sequence[_Waiting]) -> list[Result | BaseException]:
    """Where the model computes NaN for a batch, one by one: it may be one image of one client."""
    try:
        return [*batch[0].answer([item.pixels for item in batch])]
    except NonFiniteError as error:
        if len(batch) == 1:
            return [error]
    return [result for item in batch for result in _answered([item])]
