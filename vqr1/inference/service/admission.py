"""What is taken on: images and bytes of all requests under way, shared fairly among clients.

Where a request does not fit, the client that holds the most loses its newest requests, as long as
it holds more than the one that asks would; else the one that asks is refused. One client alone may
hold everything, and nobody can keep others out by filling the queue (longest queue drop: McKenney,
Stochastic Fairness Queueing, 1990).

Counted are bytes of bodies as they arrive, and images as the model will see them from when they are
decoded on. What decoding takes meanwhile is bounded in `decoding.py`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from vqr1.inference.service.errors import RefusedError


@dataclass(eq=False)
class Share:
    """What one request holds.

    Attributes:
        client: whose it is.
        dropped: done once its place was given to another client.
        images: images that it holds.
        bytes: bytes that it holds.
    """

    admission: Admission
    client: str
    dropped: asyncio.Future[None]
    images: int = 0
    bytes: int = 0

    def take(self, images: int = 0, size: int = 0) -> None:
        """Hold further images and bytes.

        Raises:
            RefusedError: 429, there is no room for them.
        """
        if self.dropped.done():
            raise self.admission.refusal()
        self.admission.make_room(self, images, size)
        self.admission.add(self, images, size)

    def give_bytes(self, size: int) -> None:
        """Hold so many bytes less."""
        if not self.dropped.done():
            self.admission.add(self, 0, -min(size, self.bytes))


@dataclass
class Admission:
    """Images and bytes that are accepted and not yet answered, over all requests.

    Attributes:
        most_images: most images.
        most_bytes: most bytes.
        retry_after_s: seconds after which a refused client should try again.
        images: how many there are now.
        bytes: how many there are now.
    """

    most_images: int
    most_bytes: int
    retry_after_s: Callable[[], int]
    images: int = 0
    bytes: int = 0
    _shares: dict[Share, None] = field(default_factory=dict)

    @contextmanager
    def enter(self, client: str) -> Iterator[Share]:
        """A share for one request, which gives everything back at the end."""
        share = Share(self, client, asyncio.get_running_loop().create_future())
        self._shares[share] = None
        try:
            yield share
        finally:
            self._release(share)

    def add(self, share: Share, images: int, size: int) -> None:
        """Move the counts."""
        share.images += images
        share.bytes += size
        self.images += images
        self.bytes += size

    def make_room(self, share: Share, images: int, size: int) -> None:
        """Drop requests of larger clients until the share fits; none where it would not.

        Raises:
            RefusedError: 429, nobody holds more.
        """
        victims: dict[Share, None] = {}
        while self.images + images - sum(one.images for one in victims) > self.most_images:
            victims[self._victim(share, images, victims, lambda one: one.images)] = None
        while self.bytes + size - sum(one.bytes for one in victims) > self.most_bytes:
            victims[self._victim(share, size, victims, lambda one: one.bytes)] = None
        for victim in victims:
            self._release(victim)
            victim.dropped.set_result(None)

    def refusal(self) -> RefusedError:
        """The answer to what has no room, or no longer."""
        return RefusedError(
            429,
            f"{self.images} images are waiting already and at most {self.most_images} may, with "
            f"at most {self.most_bytes} bytes; try again later",
            {"Retry-After": str(self.retry_after_s())},
        )

    def _victim(
        self, share: Share, more: int, victims: Collection[Share], held: Callable[[Share], int]
    ) -> Share:
        """The newest request, beside the victims, of the client that holds the most."""
        left = [one for one in self._shares if one not in victims]
        holders: Counter[str] = Counter()
        for one in left:
            holders[one.client] += held(one)
        largest, most = holders.most_common(1)[0]
        if largest == share.client or most <= holders[share.client] + more:
            raise self.refusal()
        return next(one for one in reversed(left) if one.client == largest and held(one))

    def _release(self, share: Share) -> None:
        self._shares.pop(share, None)
        self.add(share, -share.images, -share.bytes)
