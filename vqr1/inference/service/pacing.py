"""The event loop's time, shared among clients.

One thread accepts, reads and parses what all clients send, and it shares Python's lock with the
model. Where it is busy for more than `SHARE` of the time, connections of clients that keep it busy
are no longer read from as their data come: they wait for their turn, clients one after the other.
What they send meanwhile stays in their sockets, so that they wait too. A client that uses less
than half of the average is never held up, nor is one that is alone.

Not here: how much is taken on (`admission.py`), how many connections there are (`connections.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from vqr1.inference.service.fairness import FairQueue

SHARE = 0.25
"""Part of the time in which the event loop may work while it is shared."""

SAVED_S = 0.02
"""Seconds of work that a loop which had nothing to do may catch up with."""

OWED_S = 0.2
"""Seconds of work beyond its share after which no more is counted."""

TURN_S = 0.02
"""Between two turns of connections that wait."""

TOGETHER = 4
"""Connections read from in a turn while the loop has time left; else it is one."""

KEPT_A_TURN = 0.98
"""Part of a client's use that still counts after a turn: half is forgotten in 0.7 s."""

FORGOTTEN_S = 1e-5
"""A use that counts no more."""


class Held(Protocol):
    """A connection that waits for its turn.

    Attributes:
        client_name: whose it is.
    """

    client_name: str

    def release(self) -> None:
        """Read from it again."""
        ...


class Pace:
    """Who is read from at once, and who waits.

    Args:
        wall: the time in seconds.
        work: seconds that this thread has worked.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.monotonic,
        work: Callable[[], float] = time.thread_time,
    ) -> None:
        self._wall = wall
        self._work = work
        self._used: dict[str, float] = {}
        self._waiting: FairQueue[Held] = FairQueue()
        self._left = SAVED_S
        self._last: tuple[float, float] | None = None
        self._turns = False

    def used(self, client: str, seconds: float) -> None:
        """Note that a client has had the loop work for so long."""
        self._used[client] = self._used.get(client, 0.0) + seconds
        self._schedule()

    def holds(self, client: str) -> bool:
        """Whether a connection of a client has to wait for its turn now."""
        self._account()
        if self._left > 0 or len(self._used) < 2:
            return False
        return self._used.get(client, 0.0) > 0.5 * sum(self._used.values()) / len(self._used)

    def hold(self, connection: Held) -> None:
        """Let a connection wait; `release` is called at its turn."""
        self._waiting.put(connection.client_name, connection)
        self._schedule()

    def forget(self, connection: Held) -> None:
        """A connection that has ended waits no more."""
        self._waiting.remove(connection.client_name, connection)

    def turn(self) -> None:
        """Read from the next ones."""
        self._account()
        for connection in self._waiting.take(TOGETHER if self._left > 0 else 1):
            connection.release()
        kept = ((client, KEPT_A_TURN * seconds) for client, seconds in self._used.items())
        self._used = {client: seconds for client, seconds in kept if seconds > FORGOTTEN_S}

    def _account(self) -> None:
        """What is left of the loop's share of the time."""
        now = self._wall(), self._work()
        if self._last is not None:
            gained = SHARE * (now[0] - self._last[0]) - (now[1] - self._last[1])
            self._left = max(-OWED_S, min(SAVED_S, self._left + gained))
        self._last = now

    def _schedule(self) -> None:
        if not self._turns:
            self._turns = True
            asyncio.get_running_loop().call_later(TURN_S, self._tick)

    def _tick(self) -> None:
        self.turn()
        self._turns = bool(self._used) or len(self._waiting) > 0
        if self._turns:
            asyncio.get_running_loop().call_later(TURN_S, self._tick)
