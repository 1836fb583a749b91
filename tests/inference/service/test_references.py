"""A service whose prompt compares each image with a reference."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import jsonschema_rs
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.inference.service.conftest import form, photo, png, settings
from vqr1.inference.backends.local import LocalBackend
from vqr1.inference.scorer import Scorer

pytestmark = pytest.mark.medium

MakeApp = Callable[..., FastAPI]

Files = list[tuple[str, tuple[str, bytes]]]


def references(*seeds: int) -> Files:
    return [("references", (f"ref{seed}.png", png(seed))) for seed in seeds]


def as_json(**fields: list[int]) -> dict[str, list[dict[str, str]]]:
    return {
        name: [{"data": base64.b64encode(png(seed)).decode()} for seed in seeds]
        for name, seeds in fields.items()
    }


def test_references_are_shown_before_images(make_app: MakeApp, backend: LocalBackend) -> None:
    config = settings("prompt=full_reference", "mode=greedy")
    scorer = Scorer(backend, config.prompt, config.answer.form, config.mode)
    one = scorer.score([photo(1), photo(2)], photo(0))
    each = scorer.score([photo(1), photo(2)], [photo(0), photo(3)])
    with TestClient(
        make_app("prompt=full_reference", "mode=greedy", "limits.max_images=4")
    ) as client:
        shared = client.post("/score", files=form(png(1), png(2)) + references(0))
        own = client.post("/score", json=as_json(images=[1, 2], references=[0, 3]))
        described = client.post("/describe", files=form(png(1)))
        refused = {
            "0 references for 1 image; this compares each image": form(png(1)),
            "2 references for 3 images": form(png(1), png(2), png(3)) + references(0, 4),
            "5 images with their references; this takes 1 to 4": form(*[png(1)] * 4)
            + references(0),
            "ref.png: the image does not decode": [
                *form(png(1)), ("references", ("ref.png", b"no image at all"))
            ],
        }  # fmt: skip
        answers = {text: client.post("/score", files=files) for text, files in refused.items()}
        body = client.get("/openapi.json").json()["paths"]["/score"]["post"]["requestBody"]
        seen = client.post("/describe", files=form(png(1)) + references(0))
    assert [image["name"] for image in shared.json()["results"]] == [
        "ref0.png + 0.png", "ref0.png + 1.png"
    ]  # fmt: skip
    for answer, expected in ((shared, one), (own, each)):
        assert [i["score"] for i in answer.json()["results"]] == [r.score for r in expected]
        assert [i["text"] for i in answer.json()["results"]] == [r.text for r in expected]
    assert own.json()["results"][1]["name"] == "reference 2 + image 2"
    assert described.status_code == 200
    for text, answer in answers.items():
        assert answer.status_code == 422
        assert text in answer.json()["detail"]
    assert "references: this asks about single images" in seen.json()["detail"]
    schema = body["content"]["application/json"]["schema"]
    valid = jsonschema_rs.validator_for(schema).is_valid
    assert valid(as_json(images=[1, 2], references=[0]))
    assert not valid(as_json(images=[1, 2]))


def test_a_service_of_single_images_takes_no_references(make_app: MakeApp) -> None:
    with TestClient(make_app()) as client:
        document = json.dumps(client.get("/openapi.json").json())
        for answer in (
            client.post("/score", files=form(png(1)) + references(0)),
            client.post("/score", json=as_json(images=[1], references=[])),
        ):
            assert answer.status_code == 422
            assert answer.json()["detail"] == "references: this asks about single images; send none"
    assert '"references"' not in document
