"""Limits of connections that uvicorn has no setting for.

- A request's head has `limits.head_timeout_s`, however slowly it drips.
- A client that does not read its answer for `limits.send_timeout_s` is cut off.
- Beyond `limits.connections` the client with the most loses the one that has waited longest for a
  request: a client cannot keep others out by opening connections. A client that has its share of
  them already may do so only now and then; the others of it are closed as they are accepted, which
  costs a tenth of what a connection does.
- A client that keeps the event loop busy is read from in turns (`pacing.py`), and in small pieces.
- Once the service stops, heads, bodies and unread answers have `limits.head_timeout_s`.

Sizes of heads are h11's (16 KiB), bodies `limits.py`'s.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol

from vqr1.inference.service.fairness import client_of
from vqr1.inference.service.pacing import Pace

LOOK_SECONDS = 1.0
"""Between two looks at all connections."""

REPLACED_A_SECOND = 50
"""Connections that clients which have their share may put in the place of others, where all are
taken."""

REFUSED_TOGETHER = 64
"""Connections that are refused before other events have their turn."""

READ_BYTES = 65536
"""Read from a connection at a time (asyncio's own is four times as many): the others wait for as
long as it takes to parse."""

ACCEPT_S = 0.0005
"""Seconds that the event loop works to take on a connection and to end it."""

SEND_BUFFER = 65536
"""Bytes of answers that the kernel keeps of one connection (it takes twice as many). Left to itself
it keeps megabytes: of a client that reads nothing, minutes pass until that shows."""


class Listener(socket.socket):
    """A socket to listen on that closes at once what `refuses` does not let in.

    Attributes:
        refuses: whether a connection from an address is refused.
    """

    def __init__(self, family: int) -> None:
        super().__init__(family)
        self.refuses: Callable[[Any], bool] = lambda address: False
        # Accepted connections have it too.
        self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection that is not refused.

        Raises:
            BlockingIOError: there is none at the moment.
        """
        for _ in range(REFUSED_TOGETHER):
            # Python's own `accept` makes an object of it, which takes longer than all else here.
            number, address = self._accept()  # type: ignore[attr-defined]
            if not self.refuses(address):
                return socket.socket(self.family, self.type, self.proto, number), address
            os.close(number)
        raise BlockingIOError


class Connections:
    """All open connections, by client.

    Args:
        most: most connections.
        head_s: seconds for a request's head.
        send_s: seconds for which an answer may lie unread.

    Attributes:
        pace: who is read from at once.
    """

    def __init__(self, most: int, head_s: float, send_s: float) -> None:
        self._most = most
        self._head_s = head_s
        self._send_s = send_s
        self.pace = Pace()
        self._clients: dict[str, dict[LimitedConnection, None]] = {}
        self._open = 0
        self._looking = False
        self._replaced = 0.0

    def refuses(self, address: Any) -> bool:
        """Whether a connection from an address is closed at once.

        All are taken then, its client has its share, and one was replaced a moment ago.
        """
        if self._open < self._most:
            return False
        if len(self._clients.get(client_of(address), ())) < self._most // len(self._clients):
            return False
        now = time.monotonic()
        if now - self._replaced < 1 / REPLACED_A_SECOND:
            return True
        self._replaced = now
        return False

    def add(self, connection: LimitedConnection) -> None:
        """Take on a connection; closes another one, or this one, where there are too many."""
        self._clients.setdefault(connection.client_name, {})[connection] = None
        self._open += 1
        if self._open > self._most:
            largest = max(self._clients.values(), key=len)
            waiting = (one for one in largest if one.waits and one is not connection)
            victim = next(waiting, connection if connection in largest else next(iter(largest)))
            victim.cut()
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def remove(self, connection: LimitedConnection) -> None:
        """Forget a connection; it may be forgotten already."""
        own = self._clients.get(connection.client_name, {})
        if connection in own:
            del own[connection]
            self._open -= 1
            self.pace.forget(connection)
            if not own:
                del self._clients[connection.client_name]

    def _look(self) -> None:
        now = time.monotonic()
        for connection in [one for own in self._clients.values() for one in own]:
            if connection.overdue(now, self._head_s, self._send_s):
                connection.cut()
        self._looking = self._open > 0
        if self._looking:
            asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)


class _Flow(FlowControl):
    """Uvicorn's control of what is read, which has no effect while the connection waits."""

    held = False

    def pause_reading(self) -> None:
        """See uvicorn."""
        self.read_paused = True
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """See uvicorn."""
        self.read_paused = False
        if not self.held:
            self._transport.resume_reading()

    def hold(self, held: bool) -> None:
        """Read nothing from now on, or again what uvicorn wants to be read."""
        self.held = held
        if held:
            self._transport.pause_reading()
        elif not self.read_paused:
            self._transport.resume_reading()


class LimitedConnection(H11Protocol):
    """One connection; `limited` makes the class that uvicorn takes."""

    table: Connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self.flow: _Flow = _Flow(transport)
        if hasattr(transport, "max_size"):  # asyncio's own; uvloop has another one
            transport.max_size = READ_BYTES
        self.client_name = client_of(self.client)
        self.table.pace.used(self.client_name, ACCEPT_S)
        self._head_since: float | None = time.monotonic()
        self._unread_since: float | None = None
        self._stops_since: float | None = None
        self.table.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self.table.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        pace, began = self.table.pace, time.thread_time()
        super().data_received(data)
        pace.used(self.client_name, time.thread_time() - began)
        if not self.waits:
            self._head_since = None
        elif self._head_since is None:
            self._head_since = time.monotonic()
        if not self.flow.held and pace.holds(self.client_name):
            self.flow.hold(True)
            pace.hold(self)

    def release(self) -> None:
        """Read again; see `Pace`."""
        self.flow.hold(False)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._unread_since = time.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._unread_since = None
        super().resume_writing()

    def shutdown(self) -> None:
        """See uvicorn: the service stops once the connection has ended."""
        self._stops_since = time.monotonic()
        super().shutdown()

    @property
    def waits(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    def overdue(self, now: float, head_s: float, send_s: float) -> bool:
        """Whether the client has taken too long; called again and again."""
        if self.transport.is_closing() and self._unread_since is None:
            # What it has not read yet keeps the connection open.
            self._unread_since = now
        if self._stops_since is not None and now - self._stops_since > head_s:
            whole = self.conn.their_state is not h11.SEND_BODY
            return self.waits or not whole or self._unread_since is not None
        head = self._head_since is not None and now - self._head_since > head_s
        return head or (self._unread_since is not None and now - self._unread_since > send_s)

    def cut(self) -> None:
        """End the connection without waiting for the client."""
        self.table.remove(self)
        self.transport.abort()


def limited(table: Connections) -> Any:
    """The class of connections for uvicorn; all are in the table."""
    return type("Connection", (LimitedConnection,), {"table": table})
