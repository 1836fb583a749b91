"""The service as a process: floods, soaks, its OpenAPI document, and how it ends.

The last test ends the process that the others share.
"""

from __future__ import annotations

import base64
import io
import itertools
import runpy
import signal
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import hypothesis
import pandas as pd
import psutil
import pytest
import schemathesis
from hypothesis import strategies as st
from PIL import Image
from schemathesis.transport.serialization import Binary

import vqr1
from tests.inference.service.conftest import ROOT, Server, form, photo, png, serving, settings
from tests.support.students import saved, tower_student
from vqr1.inference.scorer import Scorer
from vqr1.policy.loading import load_policy

pytestmark = pytest.mark.slow

REQUESTS, CONCURRENCY, BROKEN_EVERY = 200, 16, 20
WINDOW = 30
"""Requests between two readings of the memory."""


def post(server: Server, path: str, *files: bytes) -> httpx2.Response:
    return httpx2.post(f"{server.url}{path}", files=form(*files), timeout=300)


def test_the_example_of_a_folder(server: Server, tmp_path: Path) -> None:
    """`examples/batch_scoring.py`: more images than one request of its takes."""
    main = runpy.run_path(str(ROOT / "examples" / "batch_scoring.py"))["main"]
    (tmp_path / "photos").mkdir()
    for seed in range(18):
        (tmp_path / "photos" / f"{seed:02}.png").write_bytes(png(seed))
    main([str(tmp_path / "photos"), str(tmp_path / "scores.csv"), server.url])
    table = pd.read_csv(tmp_path / "scores.csv")
    assert [Path(name).name for name in table["name"]] == [f"{seed:02}.png" for seed in range(18)]
    alone = post(server, "/score", png(17)).json()["results"][0]["score"]
    assert table["score"].iloc[17] == pytest.approx(alone, abs=1e-3)


def test_flood_with_broken_images(server: Server, scorer: Scorer) -> None:
    files = [
        b"broken" if number % BROKEN_EVERY == 0 else png(number % 25) for number in range(REQUESTS)
    ]
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        answers = list(pool.map(lambda file: post(server, "/score", file), files))
    # Five percent are broken and get 422; no reply is missing and none is a 5xx.
    assert [answer.status_code for answer in answers] == [
        422 if file == b"broken" else 200 for file in files
    ]
    alone = [result.score for seed in range(25) for result in scorer.score(photo(seed))]
    for number, answer in enumerate(answers):
        if answer.status_code == 200:
            # In whatever batch it came, an image has the score that it has alone.
            score = answer.json()["results"][0]["score"]
            assert abs(score - alone[number % 25]) < 1e-4
    # Some of them were computed together.
    assert server.metric("vqr1_batch_size_sum") > server.metric("vqr1_batch_size_count")
    assert server.metric('vqr1_images_total{outcome="refused"}') >= REQUESTS / BROKEN_EVERY


def test_memory_stays_flat(server: Server) -> None:
    process = psutil.Process(server.process.pid)

    def soak(requests: int) -> int:
        with ThreadPoolExecutor(8) as pool:
            codes = list(
                pool.map(lambda n: post(server, "/score", png(n % 5)).status_code, range(requests))
            )
        assert codes == [200] * requests
        return int(process.memory_info().rss)

    # The flood before has warmed it up, and so does the first window. A leak grows in every window:
    # a request that kept its image and tensors would keep some 300 kB. A larger batch than any
    # before grows the process in one window alone.
    resident = [soak(requests) for requests in (60, *[WINDOW] * 5)]
    growth = [after - before for before, after in itertools.pairwise(resident)]
    assert statistics.median(growth) < WINDOW * 300_000 / 2, growth


def test_openapi_document_is_true(server: Server) -> None:
    def small_png(shade: int) -> bytes:
        stream = io.BytesIO()
        Image.new("RGB", (40, 30), (shade, 90, 60)).save(stream, "PNG")
        return stream.getvalue()

    images = st.sampled_from([small_png(shade) for shade in (0, 200)])
    schemathesis.openapi.format("binary", images.map(Binary))
    schemathesis.openapi.format(
        "image-base64", images.map(lambda file: base64.b64encode(file).decode())
    )
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    checked = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        cases = operation.as_strategy()
        if operation.method == "post":
            cases |= operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)

        @hypothesis.settings(
            max_examples=12, deadline=None, database=None, derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )  # fmt: skip
        @hypothesis.given(case=cases)
        def check(case: schemathesis.Case) -> None:
            nonlocal checked
            checked += 1
            case.call_and_validate(timeout=300)

        check()
    assert checked >= 30


def test_a_student_is_served_without_descriptions(tmp_path: Path) -> None:
    teacher = load_policy(settings().model)
    folder = saved(tower_student(teacher), teacher, tmp_path / "student")
    metric = vqr1.create_metric("tiny", model=str(folder))
    files = [png(seed) for seed in range(3)]
    with serving(tmp_path, f"model.path={folder}") as server:
        scored = post(server, "/score", *files).json()["results"]
        compared = post(server, "/compare", *files).json()
        described = post(server, "/describe", files[0])
        health = httpx2.get(f"{server.url}/health").json()
        document = httpx2.get(f"{server.url}/openapi.json").json()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(120) == 0, server.log.read_text()
    scores = [image["score"] for image in scored]
    assert scores == pytest.approx(metric([photo(seed) for seed in range(3)]).tolist(), abs=1e-5)
    assert [(image["std"], image["text"]) for image in scored] == [(0.25, None)] * 3
    best = max(range(3), key=scores.__getitem__)
    assert (compared["ranking"][0]["position"], compared["excluded"]) == (best, [])
    assert described.status_code == 404
    assert described.json()["detail"] == f"{folder} gives scores and writes no text: see /score"
    assert (health["describe"], health["mode"]) == (None, "expected")
    assert {"/score", "/compare"} <= document["paths"].keys()
    assert "/describe" not in document["paths"]


def test_sigterm_finishes_what_is_in_flight(server: Server) -> None:
    images = [[png(1000 + 8 * n + i) for i in range(8)] for n in range(12)]
    with ThreadPoolExecutor(12) as pool:
        waiting = [pool.submit(post, server, "/score", *eight) for eight in images]
        deadline = time.monotonic() + 120
        while server.metric("vqr1_images_under_way") < 40:
            assert time.monotonic() < deadline
        server.process.send_signal(signal.SIGTERM)
        unfinished = sum(not one.done() for one in waiting)
        answers = [one.result(300) for one in waiting]
    assert unfinished > 0
    assert [answer.status_code for answer in answers] == [200] * 12
    assert [len(answer.json()["results"]) for answer in answers] == [8] * 12
    assert server.process.wait(120) == 0
    assert "Traceback" not in server.log.read_text()
    try:
        httpx2.get(server.url, timeout=10)
    except httpx2.ConnectError:
        return
    raise AssertionError("it still accepts connections")
