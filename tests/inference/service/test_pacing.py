"""Who is read from at once where the event loop is busy, and who waits for a turn."""

from __future__ import annotations

import asyncio
import io
import threading
import time

import numpy as np
import pytest
import torch
from fastapi import FastAPI, Request, Response
from PIL import Image

from tests.inference.service.conftest import photo
from tests.inference.service.test_overload import served
from vqr1.inference.service import pacing
from vqr1.inference.service.decoding import _decoded, sizes_apart
from vqr1.inference.service.fairness import FairQueue
from vqr1.inference.service.pacing import Held, Pace
from vqr1.policy.families._llava_images import FixedRule
from vqr1.policy.families._qwen_images import AreaRule


class Waits:
    """A connection that waits."""

    def __init__(self, client_name: str, released: list[str], name: str) -> None:
        self.client_name = client_name
        self._released, self._name = released, name

    def release(self) -> None:
        self._released.append(self._name)


def test_a_client_that_keeps_the_loop_busy_waits_for_its_turn() -> None:
    now = [0.0, 0.0]
    released: list[str] = []

    async def check() -> None:
        pace = Pace(lambda: now[0], lambda: now[1])
        pace.used("hog", 0.5)
        now[:] = 1.0, 1.0
        # One that is alone waits for nobody, however much it has used.
        assert not pace.holds("hog")
        pace.used("other hog", 0.4)
        pace.used("guest", 0.1)
        # A tenth of it all is less than half of a third.
        now[:] = 2.0, 2.0
        assert [pace.holds(name) for name in ("hog", "other hog", "guest", "new")] == [
            True, True, False, False,
        ]  # fmt: skip
        first, second = Waits("hog", released, "1"), Waits("hog", released, "2")
        for one in (first, second, Waits("other hog", released, "3")):
            pace.hold(one)
        pace.forget(first)
        # No time left: one a turn, of the clients in turn. Four at a time once there is some.
        pace.turn()
        assert released == ["2"]
        pace.hold(first)
        now[:] = 10.0, 2.0
        assert not pace.holds("hog")
        pace.turn()
        assert released == ["2", "3", "1"]

    asyncio.run(check())


def test_what_is_removed_from_a_queue_may_be_gone() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.put("a", "a1")
    for item in ("a1", "a1"):
        queue.remove("a", item)
    assert (len(queue), queue.take(1)) == (0, [])


def test_a_large_body_that_waits_arrives_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left of the loop's time, so that each piece waits for a turn."""
    monkeypatch.setattr(pacing, "SHARE", 0.0)
    monkeypatch.setattr(pacing, "SAVED_S", 0.0)
    turns: list[str] = []
    hold = Pace.hold

    def counted(pace: Pace, connection: Held) -> None:
        turns.append(connection.client_name)
        hold(pace, connection)

    monkeypatch.setattr(Pace, "hold", counted)

    async def read(request: Request) -> Response:
        return Response(f"{len(await request.body())} bytes")

    app = FastAPI()
    app.add_api_route("/", read, methods=["POST"])
    size = 1_500_000
    head = f"POST / HTTP/1.1\r\nHost: s\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n"
    with served(app) as connect:
        guest = connect("127.0.0.3")
        guest.sendall(b"POST / HTTP/1.1\r\nHost: s\r\nContent-Length: 1\r\n\r\n")
        time.sleep(0.2)
        hog = connect("127.0.0.2")
        sending = threading.Thread(target=hog.sendall, args=(head.encode() + b"x" * size,))
        sending.start()
        sending.join(30)
        hog.settimeout(30)
        answer = b"".join(iter(lambda: hog.recv(65536), b""))
        guest.sendall(b"x")
        assert guest.recv(100).startswith(b"HTTP/1.1 200")
        guest.close()
    assert answer.endswith(f"{size} bytes".encode())
    assert turns.count("127.0.0.2") >= 5


def test_an_image_resized_where_it_is_decoded_has_the_same_pixels() -> None:
    rule = AreaRule(28, 3136, 200_704)
    for size in ((1500, 900), (37, 41), (2000, 15)):
        stream = io.BytesIO()
        photo(3).resize(size).save(stream, "PNG")
        upright = sizes_apart(rule, size)
        whole = _decoded(stream.getvalue(), "a", 10**8, {})
        small = _decoded(stream.getvalue(), "a", 10**8, upright)
        assert whole.size == size
        assert small.size == upright.get(size, size)
        assert torch.equal(rule.pixels(small), rule.pixels(whole))
    assert sizes_apart(rule, (1500, 900)).keys() == {(1500, 900), (900, 1500)}
    # Turned by its EXIF it lies the other way.
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(3).resize((1500, 900)).save(stream, "PNG", exif=exif)
    turned = _decoded(stream.getvalue(), "a", 10**8, sizes_apart(rule, (1500, 900)))
    assert turned.size == rule.size(900, 1500)
    assert np.asarray(turned).shape[:2] == turned.size[::-1]
    # Other families resize whole images.
    assert sizes_apart(FixedRule(None, 336, 336), (1500, 900)) == {}
