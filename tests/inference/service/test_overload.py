"""Who is served when not everybody can be, and that nothing is computed for those who have gone."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
import uvicorn
from fastapi import FastAPI, Response
from fastapi import Request as FastApiRequest
from fastapi.testclient import TestClient
from PIL import Image
from starlette.types import Receive, Scope, Send
from torch import Tensor

from tests.inference.service.conftest import form, photo, png, settings
from tests.inference.service.test_limits import HeldBackend, file_of
from tests.support.crashing import CRASHES, decoded_or_crash
from tests.support.images import progressive_scans, sequential_scans
from vqr1.errors import DataError, ModelError, NonFiniteError
from vqr1.inference.backends.local import LocalBackend
from vqr1.inference.request import Reply, Request
from vqr1.inference.result import Result
from vqr1.inference.scorer import Scorer
from vqr1.inference.service import connections, decoding
from vqr1.inference.service.admission import Admission
from vqr1.inference.service.batching import Batcher
from vqr1.inference.service.decoding import Cost, Decoders, cost_of
from vqr1.inference.service.errors import RefusedError
from vqr1.inference.service.fairness import FairQueue, client_of
from vqr1.inference.service.measures import Measures
from vqr1.inference.service.run import bind, configuration
from vqr1.inference.service.served import Served
from vqr1.rollout.abandoned import AbandonedError, abandoning, raise_if_abandoned

MakeApp = Callable[..., FastAPI]


def test_a_client_is_an_address_or_a_network() -> None:
    assert client_of(("192.0.2.7", 5)) == client_of(("192.0.2.7", 6)) == "192.0.2.7"
    assert client_of(("2001:db8:1:2:3::4", 5)) == client_of(("2001:db8:1:2::9", 6))
    assert client_of(("2001:db8:1:2::9", 6)) != client_of(("2001:db8:1:3::9", 6))
    # What a service with host=:: is given of IPv4 clients, all of one /64 network.
    assert client_of(("::ffff:192.0.2.7", 5)) == client_of(("192.0.2.7", 6))
    assert client_of(("fe80::1%eth0", 5)) == client_of(("fe80::2", 5)) == "fe80::/64"
    assert client_of(("not:an:address", 5)) == "not:an:address"
    assert client_of(None) == ""


def test_clients_take_turns() -> None:
    queue: FairQueue[str] = FairQueue()
    for name in ("a1", "a2", "a3", "a4", "b1", "b2", "c1"):
        queue.put(name[0], name)
    assert queue.take(4) == ["a1", "b1", "c1", "a2"]
    queue.put("d", "d1")
    assert queue.take(9, lambda item: item != "b2") == ["a3", "d1", "a4"]
    assert list(queue) == ["b2"]
    queue.drop(lambda item: item == "b2")
    assert len(queue) == 0


def test_the_largest_client_makes_room() -> None:
    async def check() -> None:
        admission = Admission(4, 1000, lambda: 7)
        with admission.enter("hog") as first, admission.enter("hog") as second:
            first.take(2, 100)
            second.take(2, 100)
            with pytest.raises(RefusedError, match="4 images are waiting"):
                second.take(1)
            with admission.enter("guest") as guest:
                with pytest.raises(RefusedError):
                    guest.take(
                        3
                    )  # without the newest the hog holds 2, no more than the guest would
                assert not second.dropped.done()
                guest.take(1, 100)  # the newest of the hog's goes
                assert (first.dropped.done(), second.dropped.done()) == (False, True)
                assert (admission.images, admission.bytes) == (3, 200)
                with pytest.raises(RefusedError):
                    second.take(0, 1)
                # 900 bytes: the hog holds 100, no more than the guest would.
                with pytest.raises(RefusedError):
                    guest.take(0, 850)
                guest.give_bytes(100)
                guest.take(0, 850)
        assert (admission.images, admission.bytes) == (0, 0)

    asyncio.run(check())


def test_what_an_image_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    small = io.BytesIO(png(1))
    assert not cost_of(small, "a", 10**7).slow
    assert small.tell() == 0
    large = io.BytesIO(file_of(Image.new("RGB", (2500, 2000)), "PNG"))
    assert cost_of(large, "a", 10**7).slow
    assert cost_of(large, "a", 10**7).bytes == 5_000_000 * 20
    # One million pixels of JPEG 2000 take as long as 16 of PNG.
    assert cost_of(io.BytesIO(file_of(Image.new("RGB", (1000, 1000)), "JPEG2000")), "a", 10**7).slow
    # Two million pixels of a JPEG with ten scans take as long as four of one with a few.
    half = Image.new("RGB", (2000, 1001))
    assert not cost_of(io.BytesIO(file_of(half, "JPEG")), "a", 10**7).slow
    assert cost_of(io.BytesIO(file_of(half, "JPEG", progressive=True)), "a", 10**7).slow
    # Progressive or not: 40 x 32 pixels with 30 scans take as long as six times as many.
    monkeypatch.setattr(decoding, "QUICK_PIXELS", 3000)
    assert not cost_of(io.BytesIO(sequential_scans(1)), "a", 10**7).slow
    assert cost_of(io.BytesIO(sequential_scans(28)), "a", 10**7).slow


def test_what_has_no_room_in_its_turn_is_decoded_next() -> None:
    """Before small ones that keep coming; one whose request has ended holds nobody up."""

    async def check() -> None:
        limits = settings("limits.decode_threads=2").limits
        decoders = Decoders(limits)
        begun: list[str] = []
        end = threading.Event()

        def begin(client: str, size: int, slow: bool = False) -> asyncio.Future[None]:
            work = decoders.run(client, Cost(size, slow), lambda: begun.append(client))
            return asyncio.ensure_future(work)

        running = asyncio.ensure_future(decoders.run("a", Cost(1, slow=False), end.wait))
        gone = begin("gone", 3 * limits.decode_bytes, slow=True)
        await asyncio.sleep(0)
        gone.cancel()
        large = begin("large", 2 * limits.decode_bytes, slow=True)
        await asyncio.sleep(0)
        small = begin("small", 1)
        await asyncio.sleep(0.1)
        assert begun == []
        end.set()
        await asyncio.gather(running, large, small)
        assert begun == ["large", "small"]
        await decoders.stop()

    asyncio.run(check())


@pytest.mark.medium
def test_a_jpeg_of_endless_scans_is_refused(make_app: MakeApp) -> None:
    with TestClient(make_app()) as client:
        for make in (progressive_scans, sequential_scans, partial(progressive_scans, form="MPO")):
            assert client.post("/score", files=form(("a.jpg", make(1)))).status_code == 200
            refused = client.post("/score", files=form(("a.jpg", make(200))))
            assert refused.status_code == 422
            assert "a JPEG of more than 100 scans is not decoded" in refused.json()["detail"]


@pytest.mark.medium
def test_slow_images_are_decoded_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same pixels, and once more where the process that decodes dies."""
    monkeypatch.setattr(decoding, "_decoded", decoded_or_crash)

    async def check() -> None:
        decoders = Decoders(settings("limits.decode_threads=1").limits)
        file = file_of(photo(3).resize((520, 400)), "WEBP", quality=80)
        image = await asyncio.to_thread(decoders.apart, file, "a", 10**7)
        with Image.open(io.BytesIO(file)) as opened:
            assert np.array_equal(np.asarray(image), np.asarray(opened.convert("RGB")))
        with pytest.raises(DataError, match="b: the image does not decode"):
            await asyncio.to_thread(decoders.apart, b"nothing", "b", 10**7)
        # Beside it there is multiprocessing's own tracker of resources.
        own = psutil.Process().nice()
        (process,) = (one for one in psutil.Process().children() if one.nice() > own)
        process.kill()
        assert (await asyncio.to_thread(decoders.apart, file, "c", 10**7)).size == (520, 400)
        with pytest.raises(DataError, match=r"c: .*its decoder crashed"):
            await asyncio.to_thread(decoders.apart, CRASHES, "c", 10**7)
        assert (await asyncio.to_thread(decoders.apart, file, "d", 10**7)).size == (520, 400)
        # Where the service stops, no process of low priority is waited for.
        decoders.stopping = True
        next(one for one in psutil.Process().children() if one.nice() > own).suspend()
        assert (await asyncio.to_thread(decoders.apart, file, "e", 10**7)).size == (520, 400)
        next(one for one in psutil.Process().children() if one.nice() > own).resume()
        await decoders.stop()
        assert [one for one in psutil.Process().children() if one.nice() > own] == []

    asyncio.run(check())


def test_an_image_that_makes_the_model_compute_nan_fails_alone() -> None:
    batches: list[int] = []

    def answer(prompts: Sequence[Sequence[Tensor]]) -> list[Result]:
        batches.append(len(prompts))
        if any(int(image.max()) == 255 for (image,) in prompts):
            raise NonFiniteError("the logits are NaN")
        return [Result(None, score=float(image.max())) for (image,) in prompts]

    async def check() -> None:
        config = settings("batching.max_batch=3", "batching.max_wait_ms=10000").batching
        batcher = Batcher(config, Measures())
        batcher.start()
        waiting = [
            batcher.submit(client, answer, [torch.full((1, 1, 3), value, dtype=torch.uint8)])
            for client, value in (("a", 1), ("b", 255), ("c", 3))
        ]
        first, broken, last = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(broken, NonFiniteError)
        assert (first, last) == (Result(None, score=1.0), Result(None, score=3.0))
        assert batches == [3, 1, 1, 1]
        await batcher.stop()

    asyncio.run(check())


@pytest.mark.parametrize("proxy", ["127.0.0.1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("proxies", [(), ("127.0.0.1",), ("127.0.0.0/8", "::1")])
def test_who_may_state_the_client(proxies: tuple[str, ...], proxy: str) -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["client"][0])

    config = configuration(app, settings().limits, proxies)
    config.load()
    scope = {
        "type": "http", "client": (proxy, 5), "scheme": "http", "headers": [
            (b"x-forwarded-for", b"192.0.2.9")
        ],
    }  # fmt: skip
    asyncio.run(config.loaded_app(scope, None, None))  # type: ignore[arg-type]
    assert seen == ["192.0.2.9" if proxies else proxy]


def test_a_computation_ends_once_nobody_waits() -> None:
    raise_if_abandoned()
    gone = threading.Event()
    with abandoning(gone.is_set):
        raise_if_abandoned()
        gone.set()
        with pytest.raises(AbandonedError):
            raise_if_abandoned()
    raise_if_abandoned()


def test_the_deadline_reaches_the_model(make_app: MakeApp, backend: LocalBackend) -> None:
    held = HeldBackend(backend)
    with TestClient(make_app("batching.max_batch=1", backend=held)) as client:
        began = time.monotonic()
        late = [
            client.post("/score", files=form(png(n)), headers={"X-Request-Timeout": "4"})
            for n in range(2)
        ]
        assert time.monotonic() - began < 60
        wrong = client.post("/score", files=form(png(0)), headers={"X-Request-Timeout": "soon"})
        held.gate.set()
        served = client.post("/score", files=form(png(2)))
        counted = client.get("/metrics").text
    assert [answer.status_code for answer in late] == [503, 503]
    assert "no answer within 4 s" in late[0].json()["detail"]
    assert (wrong.status_code, served.status_code) == (422, 200)
    # The second never reached the model, and the first ended at its first token.
    assert held.sizes == [1, 1]
    assert "vqr1_batches_abandoned_total 1.0" in counted
    assert "vqr1_bytes_under_way 0.0" in counted


def test_ready_is_not_live(make_app: MakeApp, backend: LocalBackend) -> None:
    held = HeldBackend(backend)
    app = make_app(
        "limits.queue_size=1", "limits.max_images=1", "limits.timeout_s=60", backend=held
    )
    with TestClient(app) as client, ThreadPoolExecutor(1) as pool:
        assert client.get("/ready").json() == {"status": "ok"}
        first = pool.submit(client.post, "/score", files=form(png(0)))
        assert held.entered.wait(60)
        busy, live = client.get("/ready"), client.get("/live")
        held.gate.set()
        assert first.result(60).status_code == 200
        assert client.get("/ready").status_code == 200
    assert (busy.status_code, live.status_code) == (503, 200)
    assert busy.json() == {"status": "1 images are waiting already"}


class Constant(LocalBackend):
    """The real backend, with another answer."""

    def __init__(self, other: LocalBackend, score: float) -> None:
        self.__dict__.update(other.__dict__)
        self.score = score

    def reply(self, pixels: Sequence[Tensor], request: Request) -> list[Reply]:  # type: ignore[override]
        return [Reply((), self.score, 0.1, 0.0) for _ in pixels]


def test_a_new_model_drops_no_request(
    make_app: MakeApp,
    backend: LocalBackend,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = settings()
    collected: list[Served] = []
    monkeypatch.setattr(
        "vqr1.inference.service.service.collect_replaced", lambda: collected.append(service.served)
    )
    app = make_app(backend=Constant(backend, 2.0))
    service = app.state.service

    def load() -> Served:
        scorer = Scorer(Constant(backend, 4.0), config.prompt, config.answer.form, config.mode)
        return Served(scorer, service.served.describer)

    def broken() -> Served:
        raise ModelError("model.path=x: no such folder")

    def too_large() -> Served:
        raise torch.OutOfMemoryError("CUDA out of memory.\n Tried to allocate")

    def other() -> Served:
        return replace(load(), describer=None)

    with TestClient(app) as client, ThreadPoolExecutor(4) as pool:
        for service._load in (broken, too_large, other):
            client.portal.call(service.reload)  # type: ignore[union-attr]
        assert collected == [service.served] * 3
        assert client.post("/score", files=form(png(0))).json()["results"][0]["score"] == 2.0
        service._load = load
        asked = [pool.submit(client.post, "/score", files=form(png(n))) for n in range(20)]
        client.portal.call(service.reload)  # type: ignore[union-attr]
        after = client.post("/score", files=form(png(0)))
        answers = [one.result(60) for one in asked]
        assert client.get("/health").json()["loads"] == 2
    assert after.json()["results"][0]["score"] == 4.0
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["results"][0]["score"] for answer in answers} <= {2.0, 4.0}
    printed = capsys.readouterr().err
    for why in ("model.path=x: no such folder", "CUDA out of memory.", "it takes other images"):
        assert f"the one before answers: {why}" in printed
    assert collected[3] is service.served
    assert "the model was loaded again in" in printed


@contextmanager
def served(app: FastAPI, *overrides: str) -> Iterator[Callable[[str], socket.socket]]:
    """The application on a port of this machine; connects from an address of the client's."""
    limits = settings(*overrides).limits
    table = connections.Connections(8, limits.head_timeout_s, limits.send_timeout_s)
    http = connections.limited(table)
    server = uvicorn.Server(uvicorn.Config(app, http=http, ws="none", log_level="error"))
    listener = bind("127.0.0.1", 0)
    listener.refuses = table.refuses
    listener.listen()
    address = listener.getsockname()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield lambda own: socket.create_connection(address, 60, (own, 0))
    finally:
        server.should_exit = True
        thread.join(60)
    assert not thread.is_alive()


def test_connections_that_wait_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LOOK_SECONDS", 0.1)
    app = FastAPI()
    app.add_api_route("/large", lambda: Response("x" * 30_000))
    with served(app, "limits.head_timeout_s=1", "limits.send_timeout_s=1") as connect:
        # Nothing sent, and a head that drips: closed after a second.
        silent, drips = connect("127.0.0.2"), connect("127.0.0.2")
        drips.sendall(b"GET /large HTTP/1.1\r\n")
        assert _cut(drips, b"X-a: b\r\n", 0.05)
        assert _ended(silent)
        # A client that reads nothing of what it asks for.
        reader = connect("127.0.0.2")
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert _cut(reader, b"GET /large HTTP/1.1\r\nHost: s\r\n\r\n" * 50, 0.0)
        # Eight connections of one client, and one of another: the first of the eight goes.
        hog = [connect("127.0.0.2") for _ in range(8)]
        guest = connect("127.0.0.3")
        guest.sendall(b"GET /large HTTP/1.1\r\nHost: s\r\n\r\n")
        assert guest.recv(100).startswith(b"HTTP/1.1 200")
        assert _ended(hog[0])


def test_a_client_that_has_its_share_replaces_few_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(connections, "time", SimpleNamespace(monotonic=lambda: now))
    table = connections.Connections(4, 10, 30)
    hog, guest = ("127.0.0.2", 1), ("127.0.0.3", 1)
    for number in range(4):
        assert not table.refuses(hog)
        table._clients.setdefault("127.0.0.2", {})[number] = None  # type: ignore[index]
        table._open += 1
    now = 100.0
    assert [table.refuses(hog) for _ in range(3)] == [False, True, True]
    assert not table.refuses(guest)
    now += 1.5 / connections.REPLACED_A_SECOND
    assert [table.refuses(hog), table.refuses(hog), table.refuses(guest)] == [False, True, False]


def test_the_kernel_keeps_little_of_an_answer() -> None:
    with bind("127.0.0.1", 0) as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            # Linux reports twice what was asked for; without it grows to megabytes.
            kept = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    assert kept <= 2 * connections.SEND_BUFFER


def test_what_never_ends_does_not_keep_the_service_from_stopping() -> None:
    async def read(request: FastApiRequest) -> Response:
        return Response(f"{len(await request.body())} bytes")

    app = FastAPI()
    app.add_api_route("/", read, methods=["POST"])
    app.add_api_route("/large", lambda: Response("x" * 3_000_000))
    head = b"POST / HTTP/1.1\r\nHost: s\r\nContent-Length: 100\r\n\r\n"
    with served(app, "limits.head_timeout_s=1", "limits.send_timeout_s=100") as connect:
        body, reader, silent = (connect(f"127.0.0.{number}") for number in (2, 3, 4))
        body.sendall(head + b"x")
        reader.sendall(b"GET /large HTTP/1.1\r\nHost: s\r\n\r\n")
        assert reader.recv(1) == b"H"
        began = time.monotonic()
    assert time.monotonic() - began < 30
    assert all(_ended(one) for one in (body, silent))


def test_nothing_is_computed_for_a_client_that_has_gone(
    make_app: MakeApp, backend: LocalBackend
) -> None:
    held = HeldBackend(backend)
    app = make_app(backend=held)
    body = (
        b'--e\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
        + png(0)
        + b"\r\n--e--\r\n"
    )
    with served(app) as connect:
        asks = connect("127.0.0.4")
        asks.sendall(
            b"POST /score HTTP/1.1\r\nHost: s\r\nContent-Type: multipart/form-data; boundary=e\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
        assert held.entered.wait(60)
        asks.close()
        began = time.monotonic()
        while app.state.service._admission.images:
            assert time.monotonic() < began + 60
            time.sleep(0.02)
        held.gate.set()
        measures = app.state.service.measures
        while b"vqr1_batches_abandoned_total 1.0" not in measures.text():
            assert time.monotonic() < began + 120
            time.sleep(0.02)


def _ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(100) == b""
    except ConnectionError:
        return True


def _cut(connection: socket.socket, sent: bytes, pause: float) -> bool:
    """Whether the service ends a connection on which this is sent again and again."""
    deadline = time.monotonic() + 30
    try:
        while time.monotonic() < deadline:
            connection.sendall(sent)
            time.sleep(pause)
    except ConnectionError:
        return True
    return False
