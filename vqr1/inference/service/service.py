"""What the endpoints share: the model, who is served, and for how long.

A request is read, its images are decoded (`decoding.py`) and wait for the model (`batching.py`). It
ends early where it is late, where its client has closed the connection, and where its place was
given to another client (`admission.py`); whatever it has waiting then is not begun.

Not here: HTTP (`app.py`), loading a model (`vqr1.cli.serve`).
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from PIL import Image
from starlette.requests import ClientDisconnect
from starlette.types import Message
from torch import Tensor

from vqr1.config import BatchingConfig, ComparisonConfig, LimitsConfig
from vqr1.config.serving import JSON_COPIES
from vqr1.data.images import decoded_at
from vqr1.errors import ConfigError, DataError, UserError, first_line
from vqr1.inference.compare import Comparison, compare
from vqr1.inference.images import decoded_sizes
from vqr1.inference.result import Result
from vqr1.inference.scorer import Scorer
from vqr1.inference.service.admission import Admission, Share
from vqr1.inference.service.batching import Batcher, Task
from vqr1.inference.service.decoding import Decoders, cost_of, sizes_apart
from vqr1.inference.service.errors import RefusedError
from vqr1.inference.service.fairness import client_of
from vqr1.inference.service.measures import Measures
from vqr1.inference.service.served import Served
from vqr1.inference.service.uploads import Upload, Uploads, decode, read_uploads
from vqr1.process_memory import collect_replaced
from vqr1.row_names import row_name

T = TypeVar("T")

TIMEOUT_HEADER = "x-request-timeout"
"""Seconds after which a client wants no answer any more."""


@dataclass
class _Request:
    """One request under way."""

    http: Request
    client: str
    share: Share
    began: float = field(default_factory=time.monotonic)


class Service:
    """Everything at the endpoints.

    Args:
        served: the model.
        limits: what is taken on.
        batching: how requests share the model.
        comparison: how images are compared.
        load: loads the model again, for `reload`; called in the model's thread.

    Attributes:
        served: the model that answers now.
        shown: images of a prompt, by task that there is.
        loads: how often a model was loaded.
    """

    def __init__(
        self,
        served: Served,
        limits: LimitsConfig,
        batching: BatchingConfig,
        comparison: ComparisonConfig,
        load: Callable[[], Served] | None = None,
    ) -> None:
        self.served = served
        self._load = load
        self.shown = served.images()
        self.loads = 1
        self._loading = self._stopping = False
        self._limits = limits
        self._comparison = comparison
        self.measures = Measures()
        self._batcher = Batcher(batching, self.measures)
        self._admission = Admission(
            limits.queue_size, limits.queue_bytes, self._batcher.retry_after_s
        )
        self.measures.under_way.set_function(lambda: self._admission.images)
        self.measures.bytes_under_way.set_function(lambda: self._admission.bytes)
        self._decoders = Decoders(limits)

    @asynccontextmanager
    async def running(self, _: FastAPI) -> AsyncIterator[None]:
        """Lifespan of the application."""
        self._batcher.start()
        yield
        await self._batcher.stop()
        await self._decoders.stop()

    def begin_stop(self) -> None:
        """Take notice that no further requests come, and that those under way are waited for."""
        self._stopping = self._decoders.stopping = True

    def unready(self) -> str | None:
        """Why no request should be sent here now; None where it may be."""
        if self._stopping:
            return "the service stops"
        if self._loading:
            return "a model is being loaded"
        if self._batcher.busy_s() > self._limits.timeout_s:
            return f"the model has computed one batch for {self._batcher.busy_s():.0f} s"
        if self._admission.images >= self._limits.queue_size:
            return f"{self._admission.images} images are waiting already"
        return None

    async def reload(self) -> None:
        """Load the model again, between two batches, and answer with it what comes from then on.

        Requests wait meanwhile, and what was decoded for the model before is still answered by it.
        A model that cannot be loaded, or answers otherwise, changes nothing; a line reports it.
        """
        if self._load is None or self._loading:
            return
        self._loading = True
        began = time.monotonic()
        try:
            await self._replace(self._load)
        # RuntimeError: a full GPU, among others.
        except (UserError, OSError, RuntimeError) as error:
            _report(f"the model was not loaded again, the one before answers: {first_line(error)}")
        else:
            self.loads += 1
            _report(f"the model was loaded again in {time.monotonic() - began:.1f} s")
        finally:
            self._loading = False
            # Only now nothing refers to the model that goes: the one before, or one not taken.
            collect_replaced()

    async def _replace(self, load: Callable[[], Served]) -> None:
        served = await self._batcher.between_batches(load)
        if served.images() != self.shown:
            raise ConfigError(["it takes other images, or has other endpoints, than before"])
        self.served = served

    async def results(self, request: Request, task: Task, least: int = 1) -> list[Result]:
        """Results of a request's images in their order, each named by its `path`.

        Raises:
            RefusedError: whatever is wrong with the request, or too much to do.
            ModelError: the server that holds the model cannot be used.
        """
        client = client_of(request.client)
        seconds = self._seconds(request)
        with self._admission.enter(client) as share:
            one = _Request(_charged(request, share), client, share)
            uploads = await self._in_time(
                one,
                self._read(one, task, least),
                self._limits.timeout_s,
                RefusedError(408, f"the body did not arrive within {self._limits.timeout_s:g} s"),
            )
            try:
                share.give_bytes(share.bytes)
                share.take(len(uploads.every), sum(upload.size() for upload in uploads.every))
                results = await self._in_time(
                    one,
                    self._answered(one, uploads, task),
                    min(self._limits.timeout_s, one.began + seconds - time.monotonic()),
                    RefusedError(
                        503,
                        f"no answer within {min(self._limits.timeout_s, seconds):g} s; try again "
                        "later, or send fewer images",
                        {"Retry-After": str(self._batcher.retry_after_s())},
                    ),
                    watch=True,
                )
            finally:
                uploads.close()
        for result in results:
            self.measures.images.labels("valid" if result.valid else "invalid").inc()
        return results

    async def compared(self, results: Sequence[Result]) -> Comparison:
        """A comparison of results.

        Raises:
            RefusedError: fewer than two can be compared.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                self._decoders.small, compare, results, self._comparison
            )
        except DataError as error:
            raise RefusedError(422, str(error)) from error

    def _seconds(self, request: Request) -> float:
        """How long the client waits for its answer."""
        text = request.headers.get(TIMEOUT_HEADER)
        if text is None:
            return math.inf
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            raise RefusedError(422, "X-Request-Timeout must be a number of seconds above 0")
        return seconds

    async def _read(self, one: _Request, task: Task, least: int) -> Uploads:
        return await read_uploads(
            one.http, least, self._limits.max_images, self.shown[task], self._decoders.small
        )

    async def _answered(self, one: _Request, uploads: Uploads, task: Task) -> list[Result]:
        served = self.served
        decoded = await _all(self._decoded(one, upload, served.scorer) for upload in uploads.every)
        self._refuse([image for image in decoded if isinstance(image, str)])
        found = {
            id(upload): image
            for upload, image in zip(uploads.every, decoded, strict=True)
            if not isinstance(image, str)
        }
        prompts = [[found[id(upload)] for upload in prompt] for prompt in uploads.prompts]
        results = await asyncio.gather(
            *(
                self._batcher.submit(one.client, served.answer(task), [p for p, _ in prompt])
                for prompt in prompts
            )
        )
        names = [row_name([upload.name for upload in prompt]) for prompt in uploads.prompts]
        sizes = [decoded_sizes([size for _, size in prompt]) for prompt in prompts]
        self._refuse(
            [
                f"{name}: {result.error}"
                for name, result in zip(names, results, strict=True)
                if result.error is not None
            ]
        )
        return [
            replace(result, path=name, decoded_at=size)
            for name, result, size in zip(names, results, sizes, strict=True)
        ]

    async def _decoded(
        self, one: _Request, upload: Upload, scorer: Scorer
    ) -> tuple[Tensor, str | None] | str:
        """Pixels as the model will see them with `Result.decoded_at`, or why there are none."""
        most = self._limits.max_pixels

        def resized(image: Image.Image) -> tuple[Tensor, str | None]:
            return scorer.resize(image), decoded_at(image)

        def quick() -> tuple[Tensor, str | None]:
            return resized(decode(upload, most))

        def slow() -> tuple[Tensor, str | None]:
            sizes = {} if cost.size is None else sizes_apart(scorer.rule, cost.size)
            return resized(self._decoders.apart(upload.file.read(), upload.name, most, sizes))

        try:
            cost = await asyncio.get_running_loop().run_in_executor(
                self._decoders.small, cost_of, upload.file, upload.name, most
            )
            work = slow if cost.slow else quick
            pixels, size = await self._decoders.run(one.client, cost, work)
        except DataError as error:
            message = str(error)
            return message if message.startswith(upload.name) else f"{upload.name}: {message}"
        one.share.give_bytes(upload.size())
        upload.file.close()
        one.share.take(size=pixels.nbytes)
        return pixels, size

    def _refuse(self, problems: Sequence[str]) -> None:
        if problems:
            self.measures.images.labels("refused").inc(len(problems))
            raise RefusedError(422, "\n".join(problems))

    async def _in_time(
        self,
        one: _Request,
        work: Coroutine[Any, Any, T],
        seconds: float,
        late: RefusedError,
        *,
        watch: bool = False,
    ) -> T:
        """What `work` returns, unless the request ends before.

        Args:
            one: the request.
            work: what is to be done; cancelled where the request ends.
            seconds: its time.
            late: raised after that.
            watch: whether the body has been read, so that the connection may be watched.
        """
        task = asyncio.ensure_future(work)
        watching = asyncio.ensure_future(_gone(one.http)) if watch else None
        waited: set[asyncio.Future[Any]] = {task, one.share.dropped}
        try:
            await asyncio.wait(
                waited if watching is None else {*waited, watching},
                timeout=max(seconds, 0.0),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if task.done():
                return task.result()
            if one.share.dropped.done():
                raise self._admission.refusal()
            if watching is not None and watching.done():
                raise gone()
            raise late
        except ClientDisconnect as error:
            raise gone() from error
        finally:
            for own in (task, watching):
                if own is not None and not own.done():
                    own.cancel()
                    with suppress(asyncio.CancelledError):
                        await own


def gone() -> RefusedError:
    """What ends a request whose client has closed the connection; nobody reads it."""
    return RefusedError(499, "the client closed the connection")


async def _gone(request: Request) -> None:
    """Returns once the client has closed the connection; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _all(work: Any) -> list[Any]:
    """What all return; where one raises, the others are cancelled and waited for."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _charged(request: Request, share: Share) -> Request:
    """The request, whose body counts as it arrives."""
    json = request.headers.get("content-type", "").lower().startswith("application/json")
    copies = JSON_COPIES if json else 1

    async def receive() -> Message:
        message = await request.receive()
        if body := message.get("body", b""):
            share.take(size=copies * len(body))
        return message

    return Request(request.scope, receive)


def _report(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
