"""What keeps requests out: a wrong key, too large a body."""

from __future__ import annotations

import asyncio
import hmac
import time
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vqr1.config import LimitsConfig
from vqr1.inference.service.errors import RefusedError
from vqr1.inference.service.measures import Measures

DRAIN_SECONDS = 5.0
"""Longest read of a body that is refused already."""

KEYED_PATHS = frozenset({"/score", "/compare", "/describe", "/metrics"})
"""What asks for the API key where one is set."""

SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class Gate:
    """ASGI layer around the whole application: key, body size, headers, counting.

    A body that is too large is refused by its declared length before a byte is read, or as soon as
    it grows beyond the limit.

    Args:
        app: the application.
        limits: size of bodies.
        key: what `Authorization: Bearer ...` must hold; None asks for none.
        measures: where requests are counted.
        paths: paths that exist; others are counted as one.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: LimitsConfig,
        key: str | None,
        measures: Measures,
        paths: frozenset[str],
    ) -> None:
        self._app = app
        self._max_bytes = limits.max_bytes
        self._key = None if key is None else key.encode()
        self._measures = measures
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        status = 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *SECURITY_HEADERS]
            await send(message)

        try:
            await self._serve(scope, receive, send_on)
        finally:
            endpoint = scope["path"] if scope["path"] in self._paths else "other"
            self._measures.requests.labels(endpoint, str(status or 500)).inc()
            self._measures.seconds.labels(endpoint).observe(time.monotonic() - started)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        refusal = self._refusal(scope["path"], headers)
        if refusal is None:
            await self._app(scope, _limited(receive, self._max_bytes), send)
            return
        # A client that is still sending must be able to read the answer.
        await _drain(receive, self._max_bytes)
        await refusal.response()(scope, receive, send)

    def _refusal(self, path: str, headers: dict[bytes, bytes]) -> RefusedError | None:
        if self._key is not None and path in KEYED_PATHS:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._key):
                return RefusedError(
                    401,
                    "wrong or missing API key; send it as `Authorization: Bearer KEY`",
                    {"WWW-Authenticate": "Bearer"},
                )
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_bytes:
            return _too_large(self._max_bytes)
        return None


def _limited(receive: Receive, max_bytes: int) -> Receive:
    """`receive` that raises once the body has grown beyond `max_bytes`."""
    total = 0

    async def receive_limited() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > max_bytes:
            if message.get("more_body", False):
                await _drain(receive, max_bytes)
            raise _too_large(max_bytes)
        return message

    return receive_limited


async def _drain(receive: Receive, max_bytes: int) -> None:
    """Read and forget the rest of a body: `max_bytes` of it at most, and `DRAIN_SECONDS` long."""
    total = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            while total <= max_bytes:
                message = await receive()
                total += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return


def _too_large(max_bytes: int) -> RefusedError:
    return RefusedError(
        413,
        f"the request's body is larger than {max_bytes} bytes; send fewer or smaller images",
    )
