"""The client of chat servers, against a real HTTP server that behaves well and badly."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.chat_server import (
    ChatLog,
    Scripted,
    chat_server,
    completion,
    image_in,
    images_in,
)
from tests.support.images import noise_image
from vqr1.config import PromptConfig, SamplingConfig, ServerConfig
from vqr1.errors import ModelError
from vqr1.rollout.chat_request import held_instead, unsupported_problems
from vqr1.rollout.openai_client import STRAY, OpenAiClient, ServerReply

GREEDY = SamplingConfig(temperature=0.0, max_new_tokens=40)
WARM = SamplingConfig(temperature=0.7, top_p=0.9, top_k=50, max_new_tokens=40)
QUICK = {"retry-after-ms": "1"}


PROMPT = PromptConfig(name="which", text="Which quality?", vision_id=False)


def pixels(count: int) -> list[tuple[torch.Tensor]]:
    return [(torch.from_numpy(np.array(noise_image(n, 56, 28 * (n + 1)))),) for n in range(count)]


def ask(log: ChatLog, count: int = 1, **settings: Any) -> list[ServerReply]:
    call: dict[str, Any] = {"samples": 1, "sampling": GREEDY, "seed": 0}
    call |= {key: settings.pop(key) for key in list(settings) if key in (*call, "logprobs")}
    prompt = replace(PROMPT, vision_id=settings.pop("vision_id", False))
    with OpenAiClient(ServerConfig(name="openai", url=log.url, **settings)) as server:
        return server.answers(pixels(count), prompt, **call)


OFF = {
    "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0, "n": 1,
}  # fmt: skip


@pytest.mark.parametrize("vision_id", [False, True])
def test_what_is_sent(monkeypatch: pytest.MonkeyPatch, vision_id: bool) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    with chat_server(lambda body, _: completion(f"{image_in(body).shape}")) as log:
        replies = ask(
            log, 2, api_key_env="MY_KEY", extra_body={"user": "me"}, vision_id=vision_id
        )  # fmt: skip
    # Answers keep the order of the images, whichever comes first.
    assert [reply.texts for reply in replies] == [("(28, 56, 3)",), ("(56, 56, 3)",)]
    bodies = sorted(log.bodies, key=lambda body: image_in(body).shape)
    for body, (image,) in zip(bodies, pixels(2), strict=True):
        assert np.array_equal(image_in(body), image.numpy())
        (message,) = body.pop("messages")
        assert message["role"] == "user"
        texts = [part.get("text") for part in message["content"]]
        assert texts == [*(["Picture 1: "] if vision_id else []), None, "Which quality?"]
        # Everything is sent, greedy or not: a server fills in what is absent.
        assert body == {
            "model": "m", "temperature": 0.0, "max_tokens": 40, "user": "me", **OFF,
            "chat_template_kwargs": {"add_vision_id": False},
        }  # fmt: skip
    assert log.keys == ["Bearer secret"] * 2


@pytest.mark.parametrize("vision_id", [False, True])
def test_several_images_are_sent_in_order(vision_id: bool) -> None:
    prompt = PromptConfig(
        name="compare", text="First <image>, second <image>: which?", images=2,
        system="You compare images.", vision_id=vision_id,
    )  # fmt: skip
    (first,), (second,) = pixels(2)
    pairs = [(first, second), (second, first)]
    with chat_server(
        lambda body, _: completion(str([image.shape for image in images_in(body)]))
    ) as log, OpenAiClient(ServerConfig(name="openai", url=log.url)) as server:  # fmt: skip
        replies = server.answers(pairs, prompt, samples=2, sampling=WARM, seed=0)
    shapes = [str([tuple(image.shape) for image in pair]) for pair in pairs]
    assert [reply.texts for reply in replies] == [(shape,) * 2 for shape in shapes]
    # Every answer to every order of images has a seed of its own.
    assert len({body["seed"] for body in log.bodies}) == 4
    for body in log.bodies:
        system, user = body["messages"]
        assert system == {"role": "system", "content": "You compare images."}
        items = [part.get("text", "IMAGE") for part in user["content"]]
        labels = [["Picture 1: "], ["Picture 2: "]] if vision_id else [[], []]
        assert items == [
            "First ", *labels[0], "IMAGE", ", second ", *labels[1], "IMAGE", ": which?"
        ]  # fmt: skip


DEFAULTS = {
    "temperature": 0.1, "top_k": 50, "top_p": 0.8, "repetition_penalty": 1.05, "min_p": 0.02,
    "presence_penalty": 1.5, "frequency_penalty": 0.5, "n": 2, "max_tokens": 16,
}  # fmt: skip
"""What a server may take where a request has no value."""


@pytest.mark.parametrize(
    ("sampling", "holds"),
    [
        (GREEDY, {**OFF, "temperature": 0.0, "max_tokens": 40}),
        (SamplingConfig(max_new_tokens=9), {**OFF, "temperature": 1.0, "max_tokens": 9}),
        (WARM, {**OFF, "temperature": 0.7, "top_p": 0.9, "top_k": 50, "max_tokens": 40}),
        (
            SamplingConfig(temperature=0.0, repetition_penalty=1.2),
            {**OFF, "temperature": 0.0, "repetition_penalty": 1.2, "max_tokens": 256},
        ),
    ],
)
def test_a_servers_own_defaults_change_nothing(
    sampling: SamplingConfig, holds: dict[str, Any]
) -> None:
    def answer(body: dict[str, Any], _: int) -> Scripted:
        return completion(json.dumps({name: body.get(name, DEFAULTS[name]) for name in DEFAULTS}))

    with chat_server(answer) as log:
        (reply,) = ask(log, sampling=sampling)
    assert json.loads(reply.texts[0]) == holds


def test_a_server_that_refuses_what_it_does_not_know() -> None:
    known = {"model", "messages", "max_tokens", "temperature", "top_p", "seed", "n"}

    def answer(body: dict[str, Any], _: int) -> Scripted:
        unknown = sorted(set(body) - known)
        fault = Scripted({"detail": f"Unexpected fields: {unknown}"}, 422)
        return fault if unknown else completion(str(sorted(body)))

    others = {"min_p": 0.0, "presence_penalty": 0.0, "frequency_penalty": None}
    with chat_server(answer) as log:
        with pytest.raises(ModelError, match=r"refuses every request; .*'repetition_penalty'"):
            ask(log, sampling=WARM)
        unknown = {"top_k": 50, "repetition_penalty": 1.05, "chat_template_kwargs": None, **others}
        (reply,) = ask(log, sampling=WARM, unsupported=unknown)
    assert reply.texts == (str(sorted(known)),)


@pytest.mark.parametrize(
    ("unsupported", "sampling", "problem"),
    [
        ({"top_k": 50}, WARM, None),
        ({"top_k": 20}, WARM, "top_k=50: .* 20 holds; set mode.sampling.top_k=20, or give the v"),
        ({"top_k": 0}, WARM, "top_k=50: .* 0 holds; set mode.sampling.top_k=0,"),
        ({"top_k": 0}, SamplingConfig(), None),
        ({"top_k": -1}, SamplingConfig(), None),
        ({"top_k": None}, SamplingConfig(), None),
        ({"top_k": None}, WARM, "the server's own value, not known, holds; set .*top_k=0, or give"),
        # Without effect on greedy decoding.
        ({"top_k": 20, "top_p": 0.5, "seed": None}, GREEDY, None),
        ({"repetition_penalty": 1.05}, GREEDY, "repetition_penalty=1: .* 1.05 holds; set"),
        ({"repetition_penalty": 1.05}, SamplingConfig(repetition_penalty=1.05), None),
        ({"repetition_penalty": None}, SamplingConfig(repetition_penalty=1.05), "not known, holds"),
        (
            {"temperature": 1.0},
            WARM,
            "temperature=0.7: .* 1 holds; set .*temperature=1",
        ),
        (
            {"temperature": None},
            WARM,
            "not known, holds; give the value that holds",
        ),
        # No key asks for these: what holds is stated.
        ({"min_p": 0.1, "presence_penalty": None}, WARM, None),
    ],
)
def test_a_value_that_cannot_hold_is_refused(
    unsupported: dict[Any, float | None], sampling: SamplingConfig, problem: str | None
) -> None:
    config = ServerConfig(name="openai", url="http://127.0.0.1/v1", unsupported=unsupported)
    found = unsupported_problems(config, sampling)
    assert len(found) == (problem is not None)
    for line in found:
        assert re.search(problem or "", line), line


def test_what_holds_instead_is_stated() -> None:
    def held(sampling: SamplingConfig, **unsupported: float | None) -> list[str]:
        values: dict[Any, float | None] = {**unsupported}
        config = ServerConfig(name="openai", url="http://127.0.0.1/v1", unsupported=values)
        return held_instead(config, sampling)

    assert held(WARM, top_k=50.0, min_p=0.1) == ["min_p 0.1"]
    assert held(WARM, top_k=None, seed=None) == ["top_k not known", "seed not known"]
    # Off is 0 in our keys and -1 in requests: neither is another value than the one asked for.
    off = replace(WARM, top_k=0)
    assert held(off, top_k=0.0) == held(off, top_k=-1.0) == []
    assert held(WARM, top_k=-1.0) == ["top_k 0"]
    assert held(GREEDY, top_k=None, seed=None, repetition_penalty=None) == [
        "repetition_penalty not known"
    ]


def test_a_template_keeps_its_other_arguments() -> None:
    extra = {"chat_template_kwargs": {"enable_thinking": False}}
    with chat_server(lambda *_: completion("x")) as log:
        ask(log, extra_body=extra, vision_id=True)
    assert log.bodies[0]["chat_template_kwargs"] == {
        "add_vision_id": False, "enable_thinking": False,
    }  # fmt: skip


def test_samples_follow_seed_image_and_number() -> None:
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

    def answer(body: dict[str, Any], number: int) -> Scripted:
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
    printed = [
        Scripted({}, 429, QUICK),
        Scripted({}, 503, QUICK),
        Scripted({}, 500, QUICK),
        completion("at last"),
    ]
    with chat_server(lambda _, number: printed[number]) as log:
        assert ask(log, retries=3)[0].texts == ("at last",)
    assert len(log.bodies) == 4


def test_reasoning_that_the_server_cut_out_is_put_back() -> None:
    printed = completion("<answer>3.00</answer>")
    printed.body["choices"][0]["message"]["reasoning_content"] = "blurred"
    with chat_server(lambda *_: printed) as log:
        assert ask(log)[0].texts == ("<think>blurred</think><answer>3.00</answer>",)


@pytest.mark.parametrize(
    ("printed", "requests", "words"),
    [
        # A page may be that of something between: it is asked for again.
        (Scripted("<html>hello</html>"), 2, r"no chat completion \('<html>hello</html>'\)"),
        (Scripted({"choices": []}), 1, "no chat completion"),
        (Scripted({"choices": [{"message": {"content": 7}}]}), 1, "no chat completion"),
        (Scripted({"error": {"message": "bad key"}}, 401), 1, "HTTP 401: bad key.*variable MY_KEY"),
        (Scripted({"error": {"message": "not yours"}}, 403), 1, "refuses the key.*not yours"),
        (Scripted({"detail": "Not Found"}, 404), 1, "HTTP 404: Not Found; correct the address"),
        (Scripted({"detail": "unknown field"}, 422), 1, "refuses every request; it states: unk"),
        (Scripted({"error": "broken"}, 500, QUICK), 2, "HTTP 500 after 2 tries: broken"),
        (Scripted({"error": "full"}, 503, QUICK), 2, "HTTP 503 after 2 tries: full"),
        (Scripted({"error": "slow down"}, 429, QUICK), 2, "HTTP 429 after 2 tries: slow down"),
    ],
)  # fmt: skip
def test_a_server_that_cannot_be_used(printed: Scripted, requests: int, words: str) -> None:
    with chat_server(lambda *_: printed) as log, pytest.raises(ModelError, match=words) as failed:
        ask(log, retries=1, api_key_env="MY_KEY")
    assert len(log.bodies) == requests
    assert str(failed.value).startswith(f"backend.url={log.url}: ")
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Qwen/Qwen3-VL-235B-Instruct-FP8", "a qwen3_vl on a server"),
        ("HuggingFaceTB/SmolVLM-256M-Instruct", "a idefics3 on a server"),
        ("{folder}", "a internvl on a server"),
        ("Qwen/Qwen2-VL-2B-Instruct", None),
        ("somebody/finetune-of-Qwen2.5-VL-7B", None),
        ("quality", None),
    ],
)
def test_a_served_model_that_is_known_to_be_of_another_family_is_refused(
    name: str, found: str | None, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "internvl"}')
    name = name.format(folder=tmp_path)

    def answer(*_: object) -> Scripted:
        return completion("fine")

    ways: list[tuple[dict[str, str], dict[str, str]]] = [
        ({"model": name}, {}), ({"root": name}, {}), ({}, {"model": name})
    ]  # fmt: skip
    for listed, settings in ways:
        with chat_server(answer, **listed) as log:
            if found is None:
                assert ask(log, **settings)[0].texts == ("fine",)
                continue
            with pytest.raises(ModelError, match=rf"{name}: {found} is not supported: images are"):
                ask(log, **settings)
            assert log.bodies == []


def test_a_server_that_is_late_or_not_there() -> None:
    release = threading.Event()

    def answer(*_: object) -> Scripted:
        release.wait(60)
        return completion("too late")

    with chat_server(answer) as log:
        with pytest.raises(ModelError, match="timeout_s=1 in 2 tries"):
            ask(log, timeout_s=1.0, retries=1)
        release.set()
        end = time.monotonic() + 60
        while len(log.bodies) < 2:
            assert time.monotonic() < end
            time.sleep(0.01)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = ChatLog(f"http://127.0.0.1:{unused.getsockname()[1]}/v1")
        with pytest.raises(ModelError, match="cannot be reached in the only try"):
            ask(nobody, retries=0)


BAD = {
    "no choices": Scripted({"choices": []}),
    "null choices": Scripted({"choices": None}),
    "another object": Scripted([1, 2]),
    "null message": Scripted({"choices": [{"message": None}]}),
    "a number as text": Scripted({"choices": [{"message": {"content": 7}}]}),
    "a text as log-probability": completion("4", [("4", {"4": "likely"})]),  # type: ignore[dict-item]
    "an error in the server": Scripted({"error": "out of memory"}, 500, {"retry-after-ms": "1"}),
    "filtered": Scripted(
        {"choices": [{"finish_reason": "content_filter", "message": {"content": "<answer>4"}}]}
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_one_bad_reply_costs_one_image(bad: str) -> None:
    def answer(body: dict[str, Any], _: int) -> Scripted:
        return BAD[bad] if image_in(body).shape[0] == 56 else completion("fine")

    with chat_server(answer) as log:
        found = ask(log, 3, retries=1)
    assert [reply.texts for reply in found] == [("fine",), (), ("fine",)]
    assert found[1].refusal is not None
    assert found[0].refusal is None


def test_one_bad_reply_among_an_images_answers() -> None:
    def answer(_: dict[str, Any], number: int) -> Scripted:
        return BAD["no choices"] if number == 1 else completion("fine")

    with chat_server(answer) as log:
        (reply,) = ask(log, samples=3, sampling=WARM, concurrency=1)
    assert reply == ServerReply(("fine", "", "fine"))


def test_null_content_is_an_empty_answer() -> None:
    with chat_server(lambda *_: Scripted({"choices": [{"message": {"content": None}}]})) as log:
        assert ask(log)[0].texts == ("",)


def test_a_reply_that_is_not_json_is_asked_for_again() -> None:
    def answer(_: dict[str, Any], number: int) -> Scripted:
        return Scripted("<html>busy</html>") if number == 1 else completion(f"{number}")

    with chat_server(answer) as log:
        found = ask(log, 3, concurrency=1)
    assert [reply.texts for reply in found] == [("0",), ("2",), ("3",)]


def test_a_server_that_breaks_for_good_ends_the_run() -> None:
    def answer(_: dict[str, Any], number: int) -> Scripted:
        return completion("fine") if number == 0 else Scripted({"choices": []})

    with chat_server(answer) as log:
        config = ServerConfig(name="openai", url=log.url, concurrency=1)
        with OpenAiClient(config) as server:
            call: dict[str, Any] = {
                "samples": 1, "sampling": GREEDY, "seed": 0,
            }  # fmt: skip
            assert server.answers(pixels(1), PROMPT, **call)[0].texts == ("fine",)
            for _ in range(STRAY - 1):
                assert server.answers(pixels(1), PROMPT, **call)[0].refusal is not None
            with pytest.raises(ModelError, match="no chat completion"):
                server.answers(pixels(1), PROMPT, **call)


def test_answers_end_where_our_own_end() -> None:
    printed = "<think>x</think><answer>3.00</answer> Also <answer>5.00</answer>"
    tokens = [(part, {part: -0.1}) for part in ("<answer>", "3", "</answer>", " Also")]
    with chat_server(lambda *_: completion(printed, tokens)) as log:
        at_answer = SamplingConfig(temperature=0.0, stop="answer")
        (cut,) = ask(log, sampling=at_answer, logprobs=True)
        (whole,) = ask(log, sampling=GREEDY, logprobs=True)
    assert cut.texts == ("<think>x</think><answer>3.00</answer>",)
    assert cut.tokens is not None
    assert [token.text for token in cut.tokens[0]] == ["<answer>", "3", "</answer>"]
    assert whole.texts == (printed,)
    assert whole.tokens is not None
    assert len(whole.tokens[0]) == 4


def test_one_refused_image_among_others() -> None:
    def answer(body: dict[str, Any], _: int) -> Scripted:
        if image_in(body).shape[0] == 56:
            return Scripted({"error": {"message": "image too large"}}, 400)
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


EMPTY = completion("", [])


def test_an_empty_answer_does_not_mean_that_a_server_gives_no_log_probabilities() -> None:
    """Whichever image it is, first or last, and in a later call too."""
    tokens = [("<answer>", {"<answer>": -0.1}), ("4", {"4": -0.5})]
    good = completion("<answer>4", tokens)
    call: dict[str, Any] = {
        "samples": 1, "sampling": GREEDY, "seed": 0, "logprobs": True,
    }  # fmt: skip
    for bad in (EMPTY, completion("", None), completion("no log-probabilities", None)):
        for place in (0, 2):
            printed = [bad if number == place else good for number in range(3)] + [bad]
            with (
                chat_server(lambda _, number, printed=printed: printed[number]) as log,  # type: ignore[misc]
                OpenAiClient(ServerConfig(name="openai", url=log.url, concurrency=1)) as server,
            ):
                found = server.answers(pixels(3), PROMPT, **call)
                later = server.answers(pixels(1), PROMPT, **call)
            known = [bool(reply.tokens and reply.tokens[0]) for reply in (*found, *later)]
            assert known == [number != place for number in range(3)] + [False]


def test_a_server_that_never_gives_log_probabilities() -> None:
    # An empty answer at first proves nothing; one with text does.
    printed = [EMPTY, completion("<answer>4", None)]
    with (
        chat_server(lambda _, number: printed[number]) as log,
        pytest.raises(ModelError, match="mode=expected: this server gives no log-probabilities"),
    ):
        ask(log, 2, logprobs=True, concurrency=1)
