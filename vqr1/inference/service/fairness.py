"""Who a client is, and a queue in which clients take turns.

A client is an address; of IPv6 the /64 network, which one machine usually has to itself, unless it
stands for an IPv4 address. Of requests by a proxy it is what the proxy states, where
`trusted_proxies` names it (`run.py`).
"""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


def client_of(address: tuple[str, int] | None) -> str:
    """What requests of one client have in common.

    Args:
        address: the peer's address and port; None where there is none.
    """
    host = address[0] if address else ""
    if ":" not in host:
        return host
    try:
        number = ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    return str(number.ipv4_mapped or ipaddress.IPv6Network((number, 64), strict=False))


class FairQueue(Generic[T]):
    """First come, first served of each client, and one of each client in turn."""

    def __init__(self) -> None:
        self._clients: dict[str, deque[T]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._clients.values()))

    def __iter__(self) -> Iterator[T]:
        for waiting in self._clients.values():
            yield from waiting

    def put(self, client: str, item: T) -> None:
        """Queue an item of a client."""
        self._clients.setdefault(client, deque()).append(item)

    def first(self) -> T:
        """The next item, which stays; there must be one."""
        return next(iter(self))

    def remove(self, client: str, item: T) -> None:
        """Forget an item of a client; it may be gone already."""
        waiting = self._clients.get(client)
        if waiting is not None and item in waiting:
            waiting.remove(item)
            if not waiting:
                del self._clients[client]

    def drop(self, unwanted: Callable[[T], bool]) -> None:
        """Forget items."""
        for client, waiting in list(self._clients.items()):
            kept = deque(item for item in waiting if not unwanted(item))
            if kept:
                self._clients[client] = kept
            else:
                del self._clients[client]

    def take(self, most: int, fits: Callable[[T], bool] = lambda _: True) -> list[T]:
        """Remove the next items that fit, `most` at most, one of each client in turn."""
        taken: list[T] = []
        turns = deque(self._clients)
        while turns and len(taken) < most:
            client = turns.popleft()
            waiting = self._clients[client]
            item = next(filter(fits, waiting), None)
            if item is None:
                continue
            waiting.remove(item)
            taken.append(item)
            del self._clients[client]
            if waiting:
                self._clients[client] = waiting  # its next turn is after all others
                turns.append(client)
        return taken
