"""What the service answers, in this process: fields, limits, keys, and one line for a mistake."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from torch import Tensor

from tests.cli.conftest import Command, run  # noqa: F401 - a fixture
from tests.inference.service.conftest import form, photo, png, settings
from vqr1.cli.score import main
from vqr1.errors import ModelError, NonFiniteError
from vqr1.inference.backends.local import LocalBackend
from vqr1.inference.compare import compare
from vqr1.inference.request import Reply, Request
from vqr1.inference.scorer import Scorer
from vqr1.inference.service import limits

pytestmark = pytest.mark.medium

MakeApp = Callable[..., FastAPI]


def in_json(*files: bytes) -> dict[str, list[dict[str, str]]]:
    return {"images": [{"data": base64.b64encode(file).decode()} for file in files]}


def file_of(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_scores_are_those_of_the_scorer(make_app: MakeApp, scorer: Scorer) -> None:
    expected = scorer.score([photo(seed) for seed in range(3)])
    with TestClient(make_app()) as client:
        by_form = client.post("/score", files=form(*(png(seed) for seed in range(3)))).json()
        by_json = client.post("/score", json=in_json(*(png(seed) for seed in range(3)))).json()
        described = client.post("/describe", files=form(("a b.png", png(0)))).json()
        compared = client.post("/compare", files=form(*(png(seed) for seed in range(3)))).json()
        health = client.get("/health").json()
    assert {key: by_form[key] for key in ("model", "prompt", "mode")} == {
        "model": "tiny", "prompt": "thinking", "mode": "expected"
    }  # fmt: skip
    assert [image["name"] for image in by_form["results"]] == ["0.png", "1.png", "2.png"]
    assert [image["name"] for image in by_json["results"]] == ["image 1", "image 2", "image 3"]
    for answer in (by_form, by_json):
        for image, result in zip(answer["results"], expected, strict=True):
            assert image["score"] == pytest.approx(result.score, abs=1e-4)
            assert image["std"] == pytest.approx(result.std, abs=1e-4)
            assert (image["valid"], image["text"]) == (True, result.text)
            assert f"<think>{image['reasoning']}</think>" in image["text"]
    assert described["results"][0]["name"] == "a b.png"
    assert described["results"][0]["text"].strip()

    comparison = compare(expected)
    order = [ranked.position for ranked in comparison.ranking]
    assert [image["position"] for image in compared["ranking"]] == order
    for row, i in enumerate(order):
        for column, j in enumerate(order):
            assert compared["probabilities"][row][column] == pytest.approx(
                comparison.probability(i, j), abs=1e-3
            )
    assert compared["excluded"] == []
    assert health["status"] == "ok"
    assert (health["describe"], health["needs_key"]) == ("describe", False)


def test_a_jpeg_beyond_the_limit_is_decoded_smaller(make_app: MakeApp, scorer: Scorer) -> None:
    large = file_of(photo(3).resize((640, 480)), "JPEG", quality=95)
    with Image.open(io.BytesIO(large)) as opened:
        opened.draft(None, (160, 120))  # 320 x 240 are 76,800 pixels
        (expected,) = scorer.score([opened.convert("RGB")])
    files = form(("large.jpg", large), ("0.png", png(0)))
    with TestClient(make_app("limits.max_pixels=60000")) as client:
        scored = client.post("/score", files=files).json()["results"]
        ranked = client.post("/compare", files=files).json()["ranking"]
        described = client.post("/describe", files=files).json()["results"]
    assert scored[0]["score"] == pytest.approx(expected.score, abs=1e-4)
    for images in (scored, ranked, described):
        assert {i["name"]: i["decoded_at"] for i in images} == {
            "large.jpg": "160x120", "0.png": None
        }  # fmt: skip


def test_names_and_formats(make_app: MakeApp) -> None:
    image = photo(3)
    avif, jfif = file_of(image, "AVIF"), file_of(image, "JPEG")
    names = ["图片, 50%=.avif", "b 'c'.jfif", "-d\\e.jpg", "named.txt"]
    files = form(*zip(names, (avif, jfif, jfif, avif), strict=True))
    heic = form(("h.heic", b"\0\0\0\x18ftypheic" + b"\0" * 40))
    coded = [{"data": base64.b64encode(avif).decode(), "name": 'the "two  words"'}]
    with TestClient(make_app("mode=greedy", "prompt=non_thinking")) as client:
        scored = client.post("/score", files=files).json()["results"]
        in_body = client.post("/score", json={"images": coded}).json()["results"]
        refused = client.post("/score", files=heic)
    assert [result["name"] for result in scored] == names
    assert all(result["valid"] for result in scored)
    # White space is one blank, so that the name stays on one line.
    assert [result["name"] for result in in_body] == ['the "two words"']
    if find_spec("pillow_heif") is None:
        assert refused.status_code == 422
        assert refused.json()["detail"] == (
            "h.heic: the image does not decode (HEIC needs the package pillow-heif)"
        )


def broken_files() -> list[tuple[str, bytes, str]]:
    # 9000 x 9000 = 81 million pixels in a file of some kilobytes.
    bomb = file_of(Image.new("1", (9000, 9000)), "PNG")
    return [
        (
            "text.jpg",
            b"no image at all",
            "the image does not decode (cannot identify its format)",
        ),
        ("empty.png", b"", "the image file is empty (0 bytes)"),
        ("cut.png", png(1)[:300], "the image does not decode ("),
        ("bomb.png", bomb, "9000 x 9000 pixels; more than 40000000 are not decoded"),
        ("thin.png", file_of(Image.new("RGB", (900, 2)), "PNG"), "is too narrow"),
        ("float.tif", file_of(Image.new("F", (30, 30)), "TIFF"), "floating-point pixels"),
        # Pillow would start Ghostscript for this one.
        (
            "a.eps",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
            "cannot identify",
        ),
    ]


@pytest.mark.parametrize(("name", "content", "words"), broken_files())
def test_broken_images_get_one_line(
    make_app: MakeApp, name: str, content: bytes, words: str
) -> None:
    with TestClient(make_app()) as client:
        answer = client.post("/score", files=form((name, content)))
        both = client.post("/score", files=form(png(1), (name, content)))
    assert answer.status_code == both.status_code == 422
    detail = answer.json()["detail"]
    assert detail.startswith(f"{name}: ")
    assert words in detail
    assert "\n" not in detail
    assert "0x" not in detail
    assert both.json()["detail"] == detail


def test_unusual_images_are_scored(make_app: MakeApp) -> None:
    files = [
        file_of(photo(0).convert("CMYK"), "JPEG"),
        file_of(photo(1), "GIF", save_all=True, append_images=[photo(2)]),
        file_of(Image.new("I;16", (80, 60), 30000), "PNG"),
        file_of(photo(3).convert("RGBA"), "WEBP"),
    ]
    with TestClient(make_app()) as client:
        answer = client.post("/score", files=form(*files))
    assert answer.status_code == 200
    assert [image["valid"] for image in answer.json()["results"]] == [True] * 4


@pytest.mark.parametrize(
    ("status", "words", "request_"),
    [
        (415, "multipart/form-data", {"content": b"x", "headers": {"content-type": "text/plain"}}),
        (415, "multipart/form-data", {}),
        (422, "not a form that can be read", {
            "content": b"x", "headers": {"content-type": "multipart/form-data"}}),
        (422, "no file named images", {"files": [("image", ("a.png", b"x"))]}),
        (422, "no file named images", {"data": {"images": "x"}, "files": form(b"x")}),
        (422, "0 images; this takes 1 to 3", {"json": {"images": []}}),
        (422, "4 images; this takes 1 to 3", {"files": form(b"1", b"2", b"3", b"4")}),
        (422, "more than 3 images; this takes 1 to 3 of them", {"files": form(*9 * [b"1"])}),
        (422, "image 1: its data are not base64", {"json": {"images": [{"data": "=!"}]}}),
        (422, "images.0.colour: Extra inputs", {
            "json": {"images": [{"data": "QQ==", "colour": 1}]}}),
        (422, "images.0.data: Input should be a valid string", {"json": {"images": [{"data": 1}]}}),
        (422, "the JSON is not as it should be: Invalid JSON", {
            "content": b"{", "headers": {"content-type": "application/json"}}),
        (422, "image 1: the image file is empty", {"json": {"images": [{"data": "===="}]}}),
        (413, "larger than 20000 bytes", {"files": form(b"x" * 20_001)}),
    ],
)  # fmt: skip
def test_bad_requests_get_one_line(
    make_app: MakeApp, status: int, words: str, request_: dict[str, object]
) -> None:
    app = make_app("limits.max_images=3", "limits.max_bytes=20000")
    with TestClient(app) as client:
        answer = client.post("/score", **request_)  # type: ignore[arg-type]
    assert answer.status_code == status
    assert words in answer.json()["detail"] or (words.startswith("image 1: the") and
        "base64" in answer.json()["detail"])  # fmt: skip
    assert "\n" not in answer.json()["detail"]


def test_names_come_back_as_text_that_json_can_hold(make_app: MakeApp) -> None:
    data = base64.b64encode(png(0)).decode()
    odd = json.dumps({"images": [{"name": "\ud800<b>\n", "data": data}]})
    with TestClient(make_app()) as client:
        answer = client.post(
            "/score", content=odd.encode(), headers={"content-type": "application/json"}
        )
        named = client.post("/score", files=form(("ü" * 300, png(0))))
    assert answer.status_code in (200, 422)
    assert named.status_code == 200
    assert len(named.json()["results"][0]["name"]) <= 255


def test_a_body_without_a_length_is_cut_off(make_app: MakeApp) -> None:
    def endless() -> object:
        for _ in range(100):
            yield b"x" * 1000

    with TestClient(make_app("limits.max_bytes=20000")) as client:
        answer = client.post(
            "/score", content=endless(), headers={"content-type": "application/json"}
        )
        assert answer.status_code == 413
        # Nothing stays taken.
        text = client.get("/metrics").text
    assert "vqr1_images_under_way 0.0" in text


def test_api_key(make_app: MakeApp) -> None:
    app = make_app(key="s3cret")
    with TestClient(app) as client:
        wrong = [
            client.post("/score", files=form(png(0)), headers=headers)
            for headers in ({}, {"Authorization": "Bearer nope"}, {"Authorization": "s3cret"})
        ]
        right = client.post(
            "/score", files=form(png(0)), headers={"Authorization": "Bearer s3cret"}
        )
        closed, public = client.get("/metrics"), [client.get(p) for p in ("/", "/health")]
    for answer in wrong:
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert answer.json()["detail"].startswith("wrong or missing API key")
    assert right.status_code == 200
    assert closed.status_code == 401
    assert [answer.status_code for answer in public] == [200, 200]
    assert public[1].json()["needs_key"] is True
    document = app.openapi()
    assert document["paths"]["/score"]["post"]["security"] == [{"key": []}]
    assert "security" not in document["paths"]["/health"]["get"]
    assert "s3cret" not in json.dumps(document)


class HeldBackend(LocalBackend):
    """The real backend at a gate that the test opens."""

    def __init__(self, other: LocalBackend) -> None:
        self.__dict__.update(other.__dict__)
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.sizes: list[int] = []

    def reply(self, pixels: Sequence[Tensor], request: Request) -> list[Reply]:
        self.sizes.append(len(pixels))
        self.entered.set()
        assert self.gate.wait(120)
        return super().reply(pixels, request)


def test_full_queue_is_429_and_what_waits_is_batched(
    make_app: MakeApp, backend: LocalBackend
) -> None:
    held = HeldBackend(backend)
    app = make_app(
        "limits.queue_size=4", "limits.max_images=4", "batching.max_batch=3",
        "batching.max_wait_ms=0", backend=held,
    )  # fmt: skip
    with TestClient(app) as client, ThreadPoolExecutor(4) as pool:
        first = pool.submit(client.post, "/score", files=form(png(0)))
        assert held.entered.wait(120)
        rest = pool.submit(client.post, "/score", files=form(png(1), png(2), png(3)))
        while "vqr1_queue_length 3.0" not in client.get("/metrics").text:
            assert not rest.done()
        refused = client.post("/score", files=form(png(4)))
        held.gate.set()
        assert (first.result(120).status_code, rest.result(120).status_code) == (200, 200)
        assert client.post("/score", files=form(png(4))).status_code == 200
        families = {
            family.name: family
            for family in text_string_to_metric_families(client.get("/metrics").text)
        }
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["detail"].startswith("4 images are waiting already")
    assert held.sizes == [1, 3, 1]
    requests = {
        (s.labels["endpoint"], s.labels["status"]): s.value
        for s in families["vqr1_requests"].samples
        if s.name.endswith("_total")
    }
    assert requests[("/score", "200")] == 3
    assert requests[("/score", "429")] == 1
    batches = {s.name: s.value for s in families["vqr1_batch_size"].samples if not s.labels}
    assert (batches["vqr1_batch_size_count"], batches["vqr1_batch_size_sum"]) == (3, 5)


def test_late_answers_and_lost_models(make_app: MakeApp, backend: LocalBackend) -> None:
    held = HeldBackend(backend)
    app = make_app("limits.timeout_s=0.3", backend=held)
    with TestClient(app) as client:
        late = client.post("/score", files=form(png(0)))
        held.gate.set()
    assert late.status_code == 503
    assert late.json()["detail"].startswith("no answer within 0.3 s")
    assert "retry-after" in late.headers

    class LostBackend(HeldBackend):
        def reply(self, pixels: Sequence[Tensor], request: Request) -> list[Reply]:
            raise ModelError("backend.url=...: the server does not answer")

    with TestClient(make_app(backend=LostBackend(backend))) as client:
        lost = client.post("/score", files=form(png(0)))
        assert client.get("/health").status_code == 200
    assert (lost.status_code, lost.json()) == (
        502, {"detail": "backend.url=...: the server does not answer"}
    )  # fmt: skip

    class BrokenBackend(HeldBackend):
        def reply(self, pixels: Sequence[Tensor], request: Request) -> list[Reply]:
            raise NonFiniteError("the model's logits are NaN or infinite")

    with TestClient(make_app(backend=BrokenBackend(backend))) as client:
        broken = client.post("/score", files=form(png(0)))
    assert broken.status_code == 500
    assert broken.json()["detail"].startswith("the model's logits are NaN or infinite; use model.")


def test_greedy_gives_nothing_to_compare_by(make_app: MakeApp) -> None:
    with TestClient(make_app("mode=greedy")) as client:
        answer = client.post("/compare", files=form(png(0), png(1)))
    assert answer.status_code == 422
    assert "mode=greedy gives none" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prompt=describe"], "error: prompt=describe: it asks for no score"),
        (["describe=thinking"], "describe"),
        (["limits.max_images=0"], "error: limits.max_images=0: "),
        (["limits.max_images=300"], "error: limits.max_images=300: one request must fit"),
        (["port=99999"], "error: port=99999: "),
        (["host=203.0.113.7"], "error: host=203.0.113.7, port=8000: cannot listen there"),
        (["model.path=nomodel", "port=0"], "error: model.path=nomodel: "),
    ],
)
def test_mistakes_end_with_code_2(
    run: Command,  # noqa: F811
    tmp_path: Path,
    arguments: list[str],
    words: str,
) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    outcome = run(main, "serve", *arguments)
    assert outcome.code == 2
    assert words in outcome.err
    assert "Traceback" not in outcome.err
    # Whatever this process starts next would inherit that it is ignored.
    assert signal.getsignal(signal.SIGUSR1) == before


def test_defaults_listen_to_this_machine_only() -> None:
    assert settings().host == "127.0.0.1"


def test_a_refused_body_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DRAIN_SECONDS", 0.05)
    asked = 0

    async def drips() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    asyncio.run(limits._drain(drips, 10**6))
    assert 1 <= asked < 10


def test_a_mode_that_cannot_give_so_many_answers(run: Command) -> None:  # noqa: F811
    outcome = run(main, "serve", "mode=greedy", "mode.samples=6")
    assert outcome.code == 2
    assert outcome.err.startswith("error: mode.samples=6: mode=greedy gives one answer an image")
