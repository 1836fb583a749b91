"""The client of chat servers, against a real HTTP server that behaves well and badly."""

from __future__ import annotations

import socket
import threading
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.chat_server import ChatLog, Said, chat_server, completion, picture_in
from tests.support.pictures import noise_picture
from vqr1.config import SamplingConfig, ServerConfig
from vqr1.errors import ModelError
from vqr1.rollout.server import ChatServer, ServerReply

GREEDY = SamplingConfig(temperature=0.0, max_new_tokens=40)
WARM = SamplingConfig(temperature=0.7, top_p=0.9, top_k=50, max_new_tokens=40)
QUICK = {"retry-after-ms": "1"}


def pixels(count: int) -> list[torch.Tensor]:
    return [torch.from_numpy(np.array(noise_picture(n, 56, 28 * (n + 1)))) for n in range(count)]


def ask(log: ChatLog, count: int = 1, **settings: Any) -> list[ServerReply]:
    call: dict[str, Any] = {"samples": 1, "sampling": GREEDY, "seed": 0}
    call |= {key: settings.pop(key) for key in list(settings) if key in (*call, "logprobs")}
    with ChatServer(ServerConfig(name="openai", url=log.url, **settings)) as server:
        return server.answers(pixels(count), "Which quality?", **call)


def test_what_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    with chat_server(lambda body, _: completion(f"{picture_in(body).shape}")) as log:
        replies = ask(log, 2, api_key_env="MY_KEY", extra_body={"user": "me"})
    # Answers keep the order of the pictures, whichever comes first.
    assert [reply.texts for reply in replies] == [("(28, 56, 3)",), ("(56, 56, 3)",)]
    bodies = sorted(log.bodies, key=lambda body: picture_in(body).shape)
    for body, picture in zip(bodies, pixels(2), strict=True):
        assert np.array_equal(picture_in(body), picture.numpy())
        (message,) = body.pop("messages")
        assert message["role"] == "user"
        parts = message["content"]
        assert [part["type"] for part in parts] == ["text", "image_url", "text"]
        assert [parts[0]["text"], parts[2]["text"]] == ["Picture 1: ", "Which quality?"]
        assert body == {"model": "m", "temperature": 0.0, "max_tokens": 40, "user": "me"}
    assert log.keys == ["Bearer secret"] * 2


def test_samples_follow_seed_picture_and_number() -> None:
    def seeds(**call: Any) -> list[list[int]]:
        with chat_server(lambda body, _: completion(str(body["seed"]))) as log:
            replies = ask(log, 2, samples=3, sampling=WARM, model="named", **call)
        assert all(body["model"] == "named" for body in log.bodies)
        assert all((body["top_p"], body["top_k"]) == (0.9, 50) for body in log.bodies)
        return [[int(text) for text in reply.texts] for reply in replies]

    first = seeds(seed=1)
    assert len({seed for group in first for seed in group}) == 6
    assert seeds(seed=1, concurrency=1) == first
    assert not {s for group in first for s in group} & {s for g in seeds(seed=2) for s in g}


def test_requests_are_under_way_together() -> None:
    together = threading.Barrier(3, timeout=60)
    lock = threading.Lock()
    now = most = 0

    def answer(body: dict[str, Any], number: int) -> Said:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        # Nobody passes before three have come.
        together.wait()
        with lock:
            now -= 1
        return completion("x")

    with chat_server(answer) as log:
        ask(log, 6, concurrency=3)
    assert most == 3


def test_what_may_pass_is_tried_again() -> None:
    said = [Said({}, 429, QUICK), Said({}, 503, QUICK), Said({}, 500, QUICK), completion("at last")]
    with chat_server(lambda _, number: said[number]) as log:
        assert ask(log, retries=3)[0].texts == ("at last",)
    assert len(log.bodies) == 4


def test_reasoning_that_the_server_cut_out_is_put_back() -> None:
    said = completion("<answer>3.00</answer>")
    said.body["choices"][0]["message"]["reasoning_content"] = "blurred"
    with chat_server(lambda *_: said) as log:
        assert ask(log)[0].texts == ("<think>blurred</think><answer>3.00</answer>",)


@pytest.mark.parametrize(
    ("said", "requests", "words"),
    [
        (Said("<html>hello</html>"), 1, r"no chat completion \('<html>hello</html>'\)"),
        (Said({"choices": []}), 1, "no chat completion"),
        (Said({"choices": [{"message": {"content": 7}}]}), 1, "no chat completion"),
        (Said({"error": {"message": "bad key"}}, 401), 1, "HTTP 401: bad key.*variable MY_KEY"),
        (Said({"error": {"message": "not yours"}}, 403), 1, "refuses the key.*not yours"),
        (Said({"detail": "Not Found"}, 404), 1, "HTTP 404: Not Found; correct the address"),
        (Said({"detail": "unknown field"}, 422), 1, "refuses every request; it says: unk"),
        (Said({"error": "full"}, 503, QUICK), 2, "HTTP 503 after 2 tries: full"),
        (Said({"error": "slow down"}, 429, QUICK), 2, "HTTP 429 after 2 tries: slow down"),
    ],
)  # fmt: skip
def test_a_server_that_cannot_be_used(said: Said, requests: int, words: str) -> None:
    with chat_server(lambda *_: said) as log, pytest.raises(ModelError, match=words) as failed:
        ask(log, retries=1, api_key_env="MY_KEY")
    assert len(log.bodies) == requests
    assert str(failed.value).startswith(f"backend.url={log.url}: ")
    assert "\n" not in str(failed.value)


def test_a_server_that_is_late_or_not_there() -> None:
    release = threading.Event()

    def answer(*_: object) -> Said:
        release.wait(60)
        return completion("too late")

    with chat_server(answer) as log:
        with pytest.raises(ModelError, match=r"timeout_s=0\.1 in 2 tries"):
            ask(log, timeout_s=0.1, retries=1)
        release.set()
    assert len(log.bodies) == 2
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = ChatLog(f"http://127.0.0.1:{unused.getsockname()[1]}/v1")
        with pytest.raises(ModelError, match="cannot be reached in the only try"):
            ask(nobody, retries=0)


def test_one_refused_image_among_others() -> None:
    def answer(body: dict[str, Any], _: int) -> Said:
        if picture_in(body).shape[0] == 56:
            return Said({"error": {"message": "image too large"}}, 400)
        return completion("fine")

    with chat_server(answer) as log:
        found = ask(log, 3)
    assert [reply.texts for reply in found] == [("fine",), (), ("fine",)]
    assert found[1].refusal == "the server refuses this image: image too large"


def test_log_probabilities() -> None:
    tokens = [("<answer>", {"<answer>": -0.1}), ("4", {"4": -0.5, "3": -1.0})]
    with chat_server(lambda *_: completion("<answer>4", tokens)) as log:
        (reply,) = ask(log, logprobs=True)
        assert reply.tokens is not None
        assert [token.text for token in reply.tokens[0]] == ["<answer>", "4"]
        assert reply.tokens[0][1].alternatives == {"4": -0.5, "3": -1.0}
    assert (log.bodies[0]["logprobs"], log.bodies[0]["top_logprobs"]) == (True, 20)
    with (
        chat_server(lambda *_: completion("4")) as log,
        pytest.raises(ModelError, match="no log-p"),
    ):
        ask(log, logprobs=True)
